"""Makes candidates: artifacts of one layer under different schedule records, compiled in several processes at once."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.codegen.artifact import LinkedVariant, link_variant, write_artifact
from sepcompile.codegen.cache import CompileCache, tool_versions
from sepcompile.codegen.entry import symbol_name
from sepcompile.codegen.selftest import make_selftest
from sepcompile.codegen.variant import check_precision, compile_variant, read_program
from sepcompile.codegen.worker import Worker
from sepcompile.compute.form import Form
from sepcompile.errors import ArtifactError, CompileError, ScheduleError, TuningError
from sepcompile.ir.stages import Program
from sepcompile.targets import Target
from sepcompile.tuning.activity import Activity
from sepcompile.tuning.runner import Candidate

COMPILE_TIMEOUT_S = 60.0
_FULL_BYTES = 16 << 20


@dataclass(frozen=True)
class Subject:
    """The layer that is tuned, for one target, and the ``precision`` that it is compiled with."""

    program: Program
    weights: Mapping[str, NDArray[np.float32]]
    target: Target
    precision: str = "float32"

    @property
    def form(self) -> Form:
        """The canonical form that kernels are generated from. Raises ``UnsupportedError``."""
        check_precision(self.program, self.target, self.precision)
        return read_program(self.program, self.weights, self.precision)[0]


class BuildError(Exception):
    """A candidate cannot be built; the search goes on."""


class Builder:
    """Compiles records into artifacts below ``folder``, in ``workers`` processes.

    Each process is started by the thread that made the builder, and ends with it.
    """

    def __init__(self, subject: Subject, folder: Path, workers: int, cache: CompileCache | None = None) -> None:
        self._subject, self._folder, self._cache = subject, folder, cache
        self.activity = Activity()
        self._symbol = symbol_name(subject.program.name)
        self._selftest = make_selftest(subject.program, subject.weights, subject.precision)
        self._workers = [Worker(COMPILE_TIMEOUT_S, bound=True) for _ in range(workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            worker.start()
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sepcompile-compile")
        self._numbers = iter(range(1 << 30))
        self._lock = threading.Lock()

    def submit(self, record: Any) -> Future[Candidate]:
        """Have ``record`` compiled. Raises ``BuildError`` where it cannot be, ``TuningError`` where none can."""
        return self._threads.submit(self._build, record)

    def drop(self, candidate: Candidate) -> None:
        """Remove a candidate's files."""
        shutil.rmtree(candidate.folder, ignore_errors=True)

    @contextlib.contextmanager
    def paused(self, threads: int) -> Iterator[None]:
        """As many of the processes stand still as would be in the way of ``threads`` busy threads."""
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        some = self._workers[max(0, cpus - threads) :]
        for worker in some:
            worker.pause(True)
        try:
            yield
        finally:
            for worker in some:
                worker.pause(False)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _build(self, record: Any) -> Candidate:
        worker = self._free.get()
        try:
            with self.activity.during("compile_s"):
                return self._write(self._linked(worker, record), record)
        finally:
            self._free.put(worker)

    def _linked(self, worker: Worker, record: Any) -> LinkedVariant:
        subject = self._subject
        try:
            compiled = compile_variant(
                subject.program, subject.weights, subject.target,
                symbol=self._symbol, worker=worker, cache=self._cache, schedule=record,
                precision=subject.precision,
            )  # fmt: skip
            return link_variant(
                compiled, name=subject.program.name, family=subject.target.family, arch=subject.target.arch,
                triple=subject.target.triple, requires=subject.target.requires,
            )  # fmt: skip
        except (CompileError, ScheduleError) as error:
            if shutil.disk_usage(self._folder).free < _FULL_BYTES:
                raise TuningError(f"{self._folder}: the disk is full: {error}") from error
            raise BuildError(str(error)) from error

    def _write(self, linked: LinkedVariant, record: Any) -> Candidate:
        program = self._subject.program
        with self._lock:
            place = self._folder / f"{next(self._numbers)}"
        try:
            write_artifact(
                place, name=program.name, layer_info={}, ir_text="", input=program.input, output=program.output,
                variants=[linked], weights_drawn=False, selftest=self._selftest, tool_versions=tool_versions(),
                residual=program.residual,
            )  # fmt: skip
        except ArtifactError as error:
            raise TuningError(str(error)) from error
        return Candidate.of(place, record.to_json())
