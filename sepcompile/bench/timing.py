"""Timing inside a peer's process: short batches of calls until a time budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

BATCH_US = 200.0


@dataclass(frozen=True)
class Timing:
    """One round of one set-up: the best and the median batch in microseconds per call.

    ``load`` is processor time over wall time: above the thread count, the peer used more cores than it was given.
    """

    best_us: float
    median_us: float
    calls: int
    load: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Timing:
        return cls(float(values["best_us"]), float(values["median_us"]), int(values["calls"]), float(values["load"]))


def _batch(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / 1e3


def _warm_up(call: Callable[[], object], warm_ms: float) -> int:
    """Run for ``warm_ms``, at least once, and return how many calls make a batch."""
    spent, best = 0.0, float("inf")
    while spent < warm_ms * 1e3:
        took = _batch(call, 1)
        best = min(best, took)
        spent += took
    return max(1, round(BATCH_US / max(best, 0.05)))


def measure(call: Callable[[], object], budget_ms: float, warm_ms: float = 4.0) -> Timing:
    """Time ``call`` for about ``budget_ms`` after a short warm-up. A call longer than that runs twice."""
    batch = _warm_up(call, warm_ms)
    times: list[float] = []
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    while len(times) < 2 or sum(times) < budget_ms * 1e3:
        times.append(_batch(call, batch))
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    per_call = [t / batch for t in times]
    return Timing(min(per_call), median(per_call), batch * len(times), cpu / max(wall, 1))
