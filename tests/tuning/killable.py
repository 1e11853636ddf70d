"""A search to be killed: ``python killable.py DATABASE CACHE SEED TRIALS``.

Everything is real but the times, which are a function of the record, so that two searches can be compared. Each line of
output is a measurement that has been made.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import sepcompile
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings
from tests.tuning.misdeeds import CONFIG, SHAPE

MEASURE_S = 0.05


class Arithmetic(Runner):
    """Takes its time, and says what the record's digest says."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    @property
    def capacity(self) -> int:
        return 1

    def machine(self) -> MachineIdentity:
        return MachineIdentity("x86_64", "paper", "0", 2)

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        return self._thread.submit(self._measure, candidate, incumbent)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _measure(self, candidate: Candidate, incumbent: Candidate) -> Measurement:
        time.sleep(MEASURE_S)
        times = [1e-4 * (1 + seconds_of(artifact) / 256) for artifact in (candidate, incumbent)]
        os.write(1, b"measured\n")
        return Measurement((times[0],) * 6, (times[1],) * 6)


def seconds_of(artifact: Candidate) -> int:
    return hashlib.sha256(json.dumps(artifact.record, sort_keys=True).encode()).digest()[0]


if __name__ == "__main__":
    database, cache, seed, trials = sys.argv[1:]
    with Arithmetic() as runner:
        sepcompile.tune(
            CONFIG, SHAPE, trials=int(trials), seed=int(seed), database=database, cache=cache, runner=runner
        )
