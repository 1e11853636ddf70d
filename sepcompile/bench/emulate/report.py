"""What comes out of an emulated benchmark, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepcompile.bench.emulate.loops import Figures
from sepcompile.bench.output import dump

FORMAT = "sepcompile-emulation-1"
PROXY = (
    "Counts and a model, no times: dynamic instructions under qemu-user are exact, cycles are those of llvm-mca's "
    "model per executed block with every load a hit in L1, misses are those of LRU caches without a prefetcher. "
    "Schedules less than 15 % apart are not told apart by modelled cycles."
)
# Fewer lines than this share of all that a layer must touch are noise in the ratio of misses.
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Side:
    """One contestant's run of one layer: its figures, or why there are none. ``error`` is relative to the largest."""

    status: str
    reason: str = ""
    error: float | None = None
    figures: Figures | None = None


@dataclass(frozen=True)
class Row:
    """A layer: ours and XNNPACK's. ``footprint_lines``: cache lines of input, output and weights."""

    layer: str
    macs: int
    footprint_lines: int
    ours: Side
    xnnpack: Side

    def ratio(self, of: Callable[[Figures], float | None], slack: float = 0.0) -> float | None:
        """Ours over XNNPACK's, after adding ``slack`` to both; None where either is missing."""
        if self.ours.figures is None or self.xnnpack.figures is None:
            return None
        ours, theirs = of(self.ours.figures), of(self.xnnpack.figures)
        return None if ours is None or theirs is None else (ours + slack) / max(theirs + slack, 1)

    def ratios(self, models: Sequence[str]) -> dict[str, float | None]:
        """Every ratio by its name. Misses below one hundredth of the footprint weigh little on both sides."""
        slack = NEGLIGIBLE * self.footprint_lines
        result = {"instructions": self.ratio(lambda f: f.instructions)}
        for model in models:
            result[model] = self.ratio(lambda f, model=model: f.cycles.get(model))  # type: ignore[misc]
        result["L1 misses"] = self.ratio(lambda f: f.l1_misses, slack)
        result["L2 misses"] = self.ratio(lambda f: f.l2_misses, slack)
        return result


@dataclass(frozen=True)
class EmulationReport:
    """All rows, for one target. ``models`` are llvm-mca's CPUs; none where the core has no model to trust."""

    created: str
    suite: str
    target: str
    qemu_cpu: str
    l1: tuple[int, int]
    l2: tuple[int, int]
    models: tuple[str, ...]
    tools: dict[str, str]
    peer: str
    rows: tuple[Row, ...]

    def wrong(self) -> list[str]:
        """The layers of ours that failed or whose output is wrong."""
        return [row.layer for row in self.rows if row.ours.status != "ok"]

    def geomeans(self) -> dict[str, float]:
        """The geometric mean of each ratio over the rows that have it."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            for name, value in row.ratios(self.models).items():
                if value is not None and value > 0:
                    found.setdefault(name, []).append(value)
        return {name: math.exp(sum(map(math.log, values)) / len(values)) for name, values in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the ratios and what the figures are not."""
        rows = [{**asdict(row), "ratios": row.ratios(self.models)} for row in self.rows]
        head = {"format": FORMAT, "note": PROXY, **asdict(self)}
        plain: dict[str, Any] = _rounded({**head, "rows": rows, "geomeans": self.geomeans()})
        return plain


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def write_json(report: EmulationReport, path: Path) -> None:
    """The report as a file, one line per side of a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(report.to_json()) + "\n", encoding="utf-8")
