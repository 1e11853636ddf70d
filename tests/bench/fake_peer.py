"""A peer's process with a made-up library: ``python fake_peer.py KIND`` runs the real worker around a fake adapter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from sepcompile.bench import worker
from sepcompile.bench.errors import UnsupportedLayerError
from sepcompile.bench.layers import CaseData
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.reference import evaluate


class Fake:
    """Computes with the reference itself; each kind misbehaves in one way."""

    def __init__(self, kind: str, settings: Settings) -> None:
        if kind == "absent":
            raise ImportError("no module named libfake")
        self._kind, self._settings = kind, settings

    def info(self) -> PeerInfo:
        print("a library that talks on standard output")
        precision = "bfloat16" if self._kind == "coarse" else "float32"
        return PeerInfo("1.2.3", precision, self._settings.threads, f"fake {self._kind}")

    def prepare(self, case: Case) -> list[Candidate]:
        second = case.layer.name == "second"
        if self._kind == "picky" and second:
            raise UnsupportedLayerError("no such layer here")
        if self._kind == "clumsy" and second:
            raise ValueError("could not build it\nwith details")
        if self._kind == "mortal" and second:
            os.kill(os.getpid(), 11)
        y = evaluate(case.geo, CaseData(*(case.data.x, case.data.depthwise, case.data.pointwise, case.data.bias)))
        if self._kind == "wrong":
            y = y + 0.1
        if self._kind == "coarse":
            y = (y * 1.01).astype(np.float32)
        calls = [0]

        def call() -> None:
            calls[0] += 1

        def output() -> np.ndarray:
            return y + (self._kind == "drifting" and calls[0] > 2)

        good = Candidate("good", call, output, "fake_kernel")
        if self._kind == "half-wrong":
            return [Candidate("bad", call, lambda: y + 1), good]
        return [good]


def main() -> None:
    worker.die_with_driver()
    kind = sys.argv[1]
    if kind == "garbage":
        print("this is not an answer", flush=True)
        sys.stdin.read()
    if kind == "silent":
        sys.stdin.read()
    worker.create_adapter = lambda settings: Fake(kind, settings)
    with worker.answers() as stream:
        worker.serve(sys.stdin, stream)


if __name__ == "__main__":
    main()
