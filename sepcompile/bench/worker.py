"""The program of a peer's process: reads commands as JSON lines, answers each with one line.

Standard output is taken for the answers and then pointed at standard error, since libraries print.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sepcompile.bench.errors import PeerError, UnsupportedLayerError
from sepcompile.bench.layers import ALONE, geometry, load_case
from sepcompile.bench.peers import MODULES, WHOLE_BLOCKS
from sepcompile.bench.peers.base import Adapter, Candidate, Case, Settings
from sepcompile.bench.reference import error_of
from sepcompile.bench.timing import measure

# A set-up this much slower than the peer's best one in a trial is not timed in the rounds.
TRIAL_SLACK = 1.3
TRIAL_MS = 6.0


class Worker:
    """Holds the adapter and the prepared layers of one peer."""

    def __init__(self, adapter: Adapter, peer: str) -> None:
        self.adapter, self.peer = adapter, peer
        self.prepared: dict[str, list[Candidate]] = {}
        self.expected: dict[str, Any] = {}

    def info(self, _: dict[str, Any]) -> dict[str, Any]:
        return asdict(self.adapter.info())

    def prepare(self, command: dict[str, Any]) -> dict[str, Any]:
        """Build every set-up of a layer, check each one's output, keep the fast and right ones."""
        folder = Path(command["folder"])
        layer, data, expected = load_case(folder)
        geo = geometry(layer)
        if geo.around != ALONE and self.peer in MODULES and self.peer not in WHOLE_BLOCKS:
            raise UnsupportedLayerError("whole blocks are raced against LiteRT, OpenVINO and ONNX Runtime")
        candidates = self.adapter.prepare(Case(layer, geo, data, folder))
        errors = {c.label: self._error(c, expected) for c in candidates}
        right = [c for c in candidates if errors[c.label] <= command["tolerance"]]
        self.prepared[layer.name] = self._fastest(right) if command.get("trial", True) else right
        self.expected[layer.name] = expected
        kept = [c.label for c in self.prepared[layer.name]]
        return {"errors": errors, "kept": kept, "evidence": {c.label: c.evidence for c in candidates}}

    def measure(self, command: dict[str, Any]) -> dict[str, Any]:
        candidates = self.prepared[command["layer"]]
        return {c.label: measure(c.call, command["budget_ms"], command["warm_ms"]).to_json() for c in candidates}

    def verify(self, command: dict[str, Any]) -> dict[str, Any]:
        """Check the outputs once more, after the rounds."""
        name = command["layer"]
        return {c.label: self._error(c, self.expected[name]) for c in self.prepared[name]}

    @staticmethod
    def _error(candidate: Candidate, expected: Any) -> float:
        candidate.call()
        return error_of(np.asarray(candidate.output()), expected)

    @staticmethod
    def _fastest(candidates: list[Candidate]) -> list[Candidate]:
        if len(candidates) < 2:
            return candidates
        trials = [[measure(c.call, TRIAL_MS, 2.0).best_us for c in candidates] for _ in range(2)]
        times = [min(pair) for pair in zip(*trials, strict=True)]
        return [c for c, t in zip(candidates, times, strict=True) if t <= TRIAL_SLACK * min(times)]


def die_with_driver() -> None:
    """A stopped or hanging worker must not outlive a driver that was killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)


def claim_processor(settings: Settings) -> None:
    """Pin this process and raise its priority, as asked, before the library starts its threads."""
    if settings.cpus:
        os.sched_setaffinity(0, settings.cpus)
    if settings.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def create_adapter(settings: Settings) -> Adapter:
    """Import the peer's adapter module and its library."""
    module = importlib.import_module(f"sepcompile.bench.peers.{MODULES.get(settings.peer, settings.peer)}")
    adapter: Adapter = module.create(settings)
    return adapter


@contextlib.contextmanager
def answers() -> Iterator[TextIO]:
    """The real standard output; whatever else writes to it lands in standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        yield stream


def _reason(error: BaseException) -> dict[str, Any]:
    kind = "unsupported" if isinstance(error, UnsupportedLayerError) else "failed"
    expected = isinstance(error, (UnsupportedLayerError, PeerError))
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    if not expected:
        traceback.print_exception(error)
    return {"ok": False, "kind": kind, "reason": (text.strip().splitlines() or ["no message"])[0][:500]}


def serve(commands: TextIO, out: TextIO) -> None:
    """Answer commands until the driver closes the pipe or says quit."""
    worker: Worker | None = None
    for line in commands:
        command = json.loads(line)
        if command["do"] == "quit":
            return
        try:
            if command["do"] == "start":
                settings = Settings.from_json(command["settings"])
                claim_processor(settings)
                worker = Worker(create_adapter(settings), settings.peer)
                answer = worker.info(command)
            else:
                answer = getattr(worker, command["do"])(command)
            reply = {"ok": True, "answer": answer}
        except Exception as error:
            reply = _reason(error)
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    die_with_driver()
    with answers() as stream:
        serve(sys.stdin, stream)
    # Some runtimes hang in their static destructors; everything said has been flushed.
    os._exit(0)
