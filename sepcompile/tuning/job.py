"""One layer tuned for one target: everything that the search needs is set up here, and taken down again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sepcompile.codegen.cache import CompileCache
from sepcompile.codegen.folder import temporary_folder
from sepcompile.errors import TargetError, TuningError
from sepcompile.runtime import cpu
from sepcompile.targets import Target
from sepcompile.tuning.build import Builder, Subject
from sepcompile.tuning.database import Database, TunedRecord
from sepcompile.tuning.families import build_space
from sepcompile.tuning.key import make_key
from sepcompile.tuning.lab import Lab
from sepcompile.tuning.local import LocalRunner
from sepcompile.tuning.runner import MachineIdentity, Runner, Settings
from sepcompile.tuning.tuner import Progress, SearchOptions, SearchResult, Tuner


@dataclass(frozen=True)
class JobOptions:
    """What ``sepcompile.tune`` takes beside the layer; see there. ``fresh`` ignores the journal of earlier searches."""

    database: Path
    trials: int = 64
    time_budget_s: float | None = None
    seed: int = 0
    threads: int = 1
    cache: CompileCache | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Tuned:
    """What tuning a layer gave: the stored record, the search, and where the time went.

    fresh: measurements made now, the others were in the journal. overhead_s: wall time with nothing compiled and
    nothing measured.
    """

    record: TunedRecord
    search: SearchResult
    machine: MachineIdentity
    database: Path
    space_size: int
    fresh: int
    wall_s: float
    compile_s: float
    measure_s: float
    overhead_s: float


def tune_subject(
    subject: Subject,
    options: JobOptions,
    runner: Runner | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Tuned:
    """Tune one layer. Without ``runner`` this machine measures.

    Raises ``TuningError``, ``TargetError`` for a target that this machine cannot run, ``UnsupportedError``.
    """
    start = time.monotonic()
    _check(options)
    form = subject.form
    space = build_space(form, subject.target, subject.program.batch)
    if runner is None:
        check_runs_here(subject.target)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(Database(options.database))
        folder = stack.enter_context(temporary_folder("tune"))
        builder = Builder(subject, folder, _cpus(), options.cache)
        stack.callback(builder.close)
        if runner is None:
            runner = stack.enter_context(LocalRunner(builder.paused))
        machine = _machine(runner, subject.target)
        key = make_key(form, subject.target, subject.program.batch, machine)
        width = _cpus() + 1 + 2 * runner.capacity
        lab = Lab(builder, runner, database, key, Settings(threads=options.threads), width)
        stack.callback(lab.close)
        if not options.fresh:
            lab.recall()
        most = options.threads if machine.gpu else max(options.threads, machine.cpus)
        chosen = SearchOptions(
            options.trials, options.time_budget_s, options.seed, options.threads, most, width
        )  # fmt: skip
        result = Tuner(space, lab, chosen, progress).run()
        record = result.to_record(subject.program.name, subject.target.name, options.threads)
        database.add_record(key, record)
        wall, activity = time.monotonic() - start, builder.activity
        return Tuned(
            replace(record, key=key), result, machine, database.path, space.size, lab.fresh, wall, activity.compile_s,
            activity.measure_s, max(0.0, wall - activity.busy_s),
        )  # fmt: skip


def _machine(runner: Runner, target: Target) -> MachineIdentity:
    """What measures. Of a target for CPUs it does not matter which GPU is in the machine.

    Raises ``TargetError`` where a target for GPUs has none.
    """
    machine = runner.machine()
    if target.gpu is None:
        return replace(machine, gpu="")
    if not machine.gpu:
        raise TargetError(
            f"target={target.name!r}: {machine} has no NVIDIA GPU with a driver; candidates are built here and measured"
            " where there is one, by a runner"
        )
    return machine


def check_runs_here(target: Target) -> None:
    """Raises ``TargetError`` unless this machine can run ``target``; of one for GPUs, the device program says so."""
    if target.gpu is not None:
        return
    missing = cpu.missing(target.requires)
    if target.arch != cpu.machine():
        raise TargetError(
            f"target={target.name!r} is for {target.arch}, this machine is {cpu.machine()}: it must be measured on such"
            " a device, by a runner"
        )
    if missing:
        raise TargetError(f"target={target.name!r} cannot run on this machine, which lacks {', '.join(missing)}")


def _check(options: JobOptions) -> None:
    if options.trials < 1:
        raise TuningError(f"trials={options.trials} must be at least 1")
    if options.threads < 1:
        raise TuningError(f"threads={options.threads} must be at least 1")
    if options.time_budget_s is not None and not options.time_budget_s > 0:
        raise TuningError(f"time_budget={options.time_budget_s} must be above 0 seconds")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
