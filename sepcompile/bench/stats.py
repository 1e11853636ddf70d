"""From rounds to a comparison: minima, medians, the fastest peer of each layer, geometric means."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from sepcompile.bench.layers import BenchLayer, geometry
from sepcompile.bench.peers import OURS
from sepcompile.bench.report import Result, Round, Row, Summary


def geomean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of the values that exist; None of nothing."""
    logs = [math.log(v) for v in values if v is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def summarize_rounds(result: Result) -> Result:
    """Fill in minimum and median: the median of the set-up where it is smallest, the minimum over all set-ups."""
    if result.status != "ok" or not result.rounds:
        return result
    by_setup: dict[str, list[Round]] = defaultdict(list)
    for item in result.rounds:
        by_setup[item.setup].append(item)
    medians = {setup: median(r.timing.median_us for r in rounds) for setup, rounds in by_setup.items()}
    best = min(medians, key=lambda setup: medians[setup])
    return replace(
        result,
        setup=best,
        min_us=min(r.timing.best_us for r in result.rounds),
        median_us=medians[best],
        load=median(r.timing.load for r in by_setup[best]),
    )


def _fastest(results: Sequence[Result], key: str) -> tuple[str, float | None]:
    """The fastest competing peer by ``min_us`` or ``median_us``."""
    times = {r.peer: getattr(r, key) for r in results if r.peer != OURS and r.competes}
    known = {peer: time for peer, time in times.items() if time is not None}
    if not known:
        return "", None
    best = min(known, key=lambda peer: known[peer])
    return best, known[best]


def _ratio(peer: float | None, ours: float | None) -> float | None:
    return None if peer is None or not ours else peer / ours


def make_row(layer: BenchLayer, threads: int, results: Sequence[Result], peak_gflops: float | None) -> Row:
    """Compare one layer at one thread count."""
    geo = geometry(layer)
    ours = next((r for r in results if r.peer == OURS and r.status == "ok"), None)
    ours_min, ours_median = (ours.min_us, ours.median_us) if ours else (None, None)
    best_peer, best_min = _fastest(results, "min_us")
    best_peer_median, best_median = _fastest(results, "median_us")
    gflops = 2e-3 * geo.macs / ours_min if ours_min else None
    return Row(
        layer.name, layer.group, threads, geo.macs, geo.bytes_moved, ours_min, ours_median,
        best_peer, best_min, best_peer_median, best_median,
        _ratio(best_min, ours_min), _ratio(best_median, ours_median),
        gflops, gflops / peak_gflops if gflops and peak_gflops else None,
    )  # fmt: skip


def make_rows(
    layers: Sequence[BenchLayer], threads: Sequence[int], results: Sequence[Result], peaks: Mapping[int, float]
) -> tuple[Row, ...]:
    """One row per thread count and layer, in that order."""
    table: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for result in results:
        table[result.layer, result.threads].append(result)
    return tuple(make_row(layer, n, table[layer.name, n], peaks.get(n)) for n in threads for layer in layers)


def summarize(rows: Sequence[Row]) -> tuple[Summary, ...]:
    """Per thread count: all rows (group ``all``), then each group."""
    found: list[Summary] = []
    for threads in dict.fromkeys(row.threads for row in rows):
        own = [row for row in rows if row.threads == threads]
        found.append(_summary(threads, "all", own))
        found += [_summary(threads, g, [r for r in own if r.group == g]) for g in dict.fromkeys(r.group for r in own)]
    return tuple(found)


def _summary(threads: int, group: str, rows: Sequence[Row]) -> Summary:
    compared = [row for row in rows if row.speedup_min is not None]
    return Summary(
        threads, group, len(compared),
        sum(1 for r in compared if (r.speedup_min or 0) > 1), sum(1 for r in compared if (r.speedup_median or 0) > 1),
        geomean(r.speedup_min for r in compared), geomean(r.speedup_median for r in compared),
        geomean(_at_peak(row) for row in compared),
    )  # fmt: skip


def _at_peak(row: Row) -> float | None:
    """The speedup that ours would have at the multiply-add peak."""
    return row.speedup_min / min(1.0, row.peak_fraction) if row.speedup_min and row.peak_fraction else None
