"""A layer set up to be measured by whoever wants to know something about its space: studies, sweeps."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sepcompile.codegen.cache import CompileCache
from sepcompile.codegen.folder import temporary_folder
from sepcompile.tuning.build import Builder, Subject
from sepcompile.tuning.database import Database
from sepcompile.tuning.families import build_space
from sepcompile.tuning.key import make_key
from sepcompile.tuning.lab import Lab
from sepcompile.tuning.local import LocalRunner
from sepcompile.tuning.runner import Measurement, Settings
from sepcompile.tuning.space import Point, Space
from sepcompile.tuning.tuner import CONFIRM_ROUNDS

LAUNCHES = 5


@dataclass
class Workbench:
    """One layer's space and a lab that answers. ``width`` measurements are under way at a time, ``cpus`` are there."""

    space: Space[Any]
    lab: Lab
    width: int
    cpus: int

    def ratios(self, points: Sequence[Point], purpose: str = "study") -> dict[Point, float]:
        """Times over the heuristic's, of one short measurement each; points that fail are left out."""
        found: dict[Point, float] = {}
        waiting = list(points)
        under_way: list[tuple[Point, Future[Measurement]]] = []
        while waiting or under_way:
            while waiting and len(under_way) < self.width:
                point = waiting.pop(0)
                under_way.append((point, self.lab.ask(self.space.record(point), self.space.default, purpose)))
            done, future = under_way.pop(0)
            outcome = future.result()
            if outcome.failure is None:
                found[done] = outcome.comparison.ratio
            if done != self.space.start:
                self.lab.forget(self.space.record(done))
        return found

    def again(self, mine: Any, other: Any, threads: int = 1, purpose: str = "again") -> float:
        """One record's time over another's, the median of several launches; NaN where it fails."""
        ratios = []
        for launch in range(LAUNCHES):
            settings = {"threads": threads, "rounds": CONFIRM_ROUNDS, "stop_ratio": 0.0}
            outcome = self.lab.ask(mine, other, purpose, launch, **settings).result()
            if outcome.failure is not None:
                return math.nan
            ratios.append(outcome.comparison.ratio)
        return median(ratios)


@contextlib.contextmanager
def workbench(subject: Subject, folder: Path) -> Iterator[Workbench]:
    """A workbench whose journal and compiled kernels lie in ``folder``: what it was asked before it knows."""
    space = build_space(subject.form, subject.target, subject.program.batch)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    width = cpus + 3
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(Database(folder / "study.sqlite3"))
        place = stack.enter_context(temporary_folder("study"))
        builder = Builder(subject, place, cpus, CompileCache(folder / "kernels.sqlite3"))
        stack.callback(builder.close)
        runner = stack.enter_context(LocalRunner(builder.paused))
        machine = runner.machine()
        key = make_key(subject.form, subject.target, subject.program.batch, machine)
        lab = Lab(builder, runner, database, key, Settings(), width)
        stack.callback(lab.close)
        lab.recall()
        yield Workbench(space, lab, width, machine.cpus)
