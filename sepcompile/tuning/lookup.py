"""The best stored record for a program and a target, for ``compile``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sepcompile.codegen.variant import AnySchedule, read_program
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import read_record
from sepcompile.errors import ScheduleError, TargetError, TuningError
from sepcompile.ir.stages import Program
from sepcompile.schedule import cuda
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Target
from sepcompile.tuning.database import Database, TunedRecord
from sepcompile.tuning.device.requests import describe
from sepcompile.tuning.job import check_runs_here
from sepcompile.tuning.key import Key, make_key
from sepcompile.tuning.runner import MachineIdentity


@dataclass(frozen=True)
class Found:
    """The record to compile with and where it comes from, or neither; ``notes`` for the user in any case."""

    schedule: AnySchedule | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


def find_schedule(
    program: Program, weights: Mapping[str, NDArray[Any]], target: Target, path: Path, precision: str = "float32"
) -> Found:
    """The record in the database ``path`` that gains most, if any was measured for just this.

    For a CPU that this machine can stand for, only what this machine measured counts; for others and for GPUs, what any
    machine measured for the target, and the source says which. A database that cannot be read is told in a note.
    """
    if not path.exists():
        return Found()
    form, _ = read_program(program, weights, precision)
    key = make_key(form, target, program.batch, MachineIdentity.of(describe()))
    try:
        with Database(path, read_only=True) as database:
            known = [record for record in database.records() if record.key is not None]
    except TuningError as error:
        return Found(notes=(str(error),))
    alike = [record for record in known if _same(record.key, key, "program", "target")]
    fitting = [record for record in alike if _same(record.key, key, "versions")]
    if _runs_here(target):
        fitting = [record for record in fitting if _same(record.key, key, "machine")]
    notes = []
    for record in fitting:
        if not record.gain:
            break  # they come in order: tuned without gain, so the heuristic's is best
        try:
            schedule = _read(record.schedule, form, target)
        except ScheduleError as error:
            notes.append(f"a tuning record for {target.name} was skipped: {error}")
            continue
        return Found(schedule, _source(record), tuple(notes))
    if alike and not fitting:
        text = "are of another version or machine and were not used; tune again"
        notes.append(f"the tuning database's records for {target.name} {text}")
    return Found(notes=tuple(notes))


def _read(data: Mapping[str, object], form: Form, target: Target) -> AnySchedule:
    """A stored record; raises ``ScheduleError`` unless it fits."""
    if target.gpu is not None:
        for_gpu = CudaSchedule.from_json(data)
        cuda.check_record(for_gpu, form)
        return for_gpu
    schedule = read_record(data)
    check_record(schedule, form, target.machine)
    return schedule


def _same(one: Key | None, other: Key, *names: str) -> bool:
    return one is not None and all(getattr(one, name) == getattr(other, name) for name in names)


def _runs_here(target: Target) -> bool:
    if target.gpu is not None:
        return False
    try:
        check_runs_here(target)
    except TargetError:
        return False
    return True


def machine_name(record: TunedRecord) -> str:
    """The machine that measured a record, in words."""
    try:
        return str(MachineIdentity.from_json(json.loads(record.key.machine if record.key is not None else "")))
    except (TuningError, ValueError, RecursionError):
        return "an unknown machine"


def _source(record: TunedRecord) -> str:
    """In words, for the manifest."""
    share = f"{record.ratio:.3f} of the heuristic's time"
    many = f"{record.threads} thread{'s' * (record.threads != 1)}"
    return f"tuned: {share}, {record.trials} trials, {many}, {machine_name(record)}, {record.created[:10]}"
