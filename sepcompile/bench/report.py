"""What a benchmark found, as data: rounds as they were measured, and the comparison drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.timing import Timing

FORMAT = 1


@dataclass(frozen=True)
class PeerStatus:
    """One peer with one thread count: ``ok``, ``absent`` or ``failed`` with the reason."""

    name: str
    threads: int
    status: str
    reason: str = ""
    version: str = ""
    precision: str = ""
    threads_reported: int = 0
    affinity: str = ""
    isa: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Round:
    """One round of one set-up of a peer on a layer."""

    launch: int
    index: int
    setup: str
    timing: Timing


@dataclass(frozen=True)
class Result:
    """One peer on one layer. ``status``: ok, unsupported, failed, or wrong (its output is off, so its time is void).

    ``competes`` is false for lower precision, and for a peer that could not be held to the instruction set asked for.
    """

    layer: str
    peer: str
    threads: int
    status: str
    precision: str = "float32"
    competes: bool = True
    reason: str = ""
    error: float | None = None
    rounds: tuple[Round, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    min_us: float | None = None
    median_us: float | None = None
    load: float | None = None


@dataclass(frozen=True)
class Row:
    """One layer and thread count: ours beside the fastest competing peer. Speedups are peer time over ours."""

    layer: str
    group: str
    threads: int
    macs: int
    bytes_moved: int
    ours_min_us: float | None
    ours_median_us: float | None
    best_peer: str
    best_min_us: float | None
    best_peer_median: str
    best_median_us: float | None
    speedup_min: float | None
    speedup_median: float | None
    gflops: float | None
    peak_fraction: float | None


@dataclass(frozen=True)
class Summary:
    """All rows of one thread count, or one group's; ``ahead`` counts the rows where ours is faster (minimum).

    ``geomean_at_peak`` is what ``geomean_min`` would be if ours ran each row at the measured multiply-add peak: no
    schedule can go beyond that.
    """

    threads: int
    group: str
    rows: int
    ahead: int
    ahead_median: int
    geomean_min: float | None
    geomean_median: float | None
    geomean_at_peak: float | None = None


@dataclass(frozen=True)
class Bandwidth:
    """Reading and copying in a working set of ``bytes`` per thread, GB/s over all threads."""

    level: str
    bytes: int
    threads: int
    read_gbs: float
    copy_gbs: float


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do: the best float32 FMA rate seen per thread count, all samples, and the memory levels."""

    fma_gflops: Mapping[int, float]
    fma_samples: Mapping[int, tuple[float, ...]]
    bandwidth: tuple[Bandwidth, ...]
    vector_bits: int
    reason: str = ""


@dataclass(frozen=True)
class BenchReport:
    """Everything that goes into the JSON file; the table and the page are drawn from it."""

    created: str
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    ceilings: Ceilings
    layers: Sequence[BenchLayer]
    peers: tuple[PeerStatus, ...]
    results: tuple[Result, ...]
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    warnings: tuple[str, ...] = ()

    def results_of(self, layer: str, threads: int) -> list[Result]:
        return [r for r in self.results if r.layer == layer and r.threads == threads]

    def wrong(self) -> list[Result]:
        """The results whose output was off; a caller may want to fail on them."""
        return [r for r in self.results if r.status == "wrong"]

    def peer_names(self, threads: int) -> list[str]:
        """The peers that ran with this thread count, in the order they were asked for."""
        return [p.name for p in self.peers if p.threads == threads and p.status == "ok"]
