"""The table of `gpu_check.py`: times beside the best peer's and the floor, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
PEERS = ("torch", "torch.compile")
MEANS = ("multiplies", "batch", "layers", "best peer / ours", "least", "most", "floor / ours")
HEAD = ("layer", "multiplies", "batch", "ours", *PEERS, "floor", "best peer / ours", "floor / ours")


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report: the machine, correctness, a line of means per type and batch, a line per layer."""
    machine, grid, suite = report["machine"], report["grid"], report["suite"]
    right = sum(1 for row in grid if row["passed"])
    parts = [
        f"# {machine.get('gpu', 'GPU')}: sepcompile's CUDA kernels beside PyTorch",
        ", ".join(f"{key} {f'{value:.0f}' if isinstance(value, float) else value}" for key, value in machine.items()),
        f"Correctness: {right} of {len(grid)} layers of the grid against float64.",
        *(f"compute-sanitizer {tool}: {words}" for tool, words in report.get("sanitizer", {}).items()),
    ]
    if suite:
        parts += [
            "Microseconds of one call: median of CUDA graph replays that go round more inputs and outputs than L2 "
            "holds. PyTorch with channels_last and cudnn.benchmark; its TF32 is off beside our float32 and on beside "
            "our tf32. floor: compulsory traffic at 4.3 TB/s or arithmetic (H200), whichever is longer.",
            _lines(MEANS, _means(suite)),
            _lines(HEAD, (_cells(row) for row in suite)),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _means(suite: Iterable[Row]) -> Iterable[Sequence[str]]:
    """Geometric means over the layers that have a time."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in suite:
        if row["ours"]:
            groups.setdefault((row["dtype"], row["batch"]), []).append(row)
    for (dtype, batch), rows in groups.items():
        ratios = [ratio for row in rows if (ratio := _ratio(row)) is not None]
        part = _mean([row["floor"] / row["ours"] for row in rows])
        spread = [f"{value:.2f}" for value in (_mean(ratios), min(ratios), max(ratios))] if ratios else [""] * 3
        yield [dtype, str(batch), str(len(rows)), *spread, f"{part:.0%}"]


def _cells(row: Row) -> Sequence[str]:
    ours, ratio = row["ours"], _ratio(row)
    wrong = "" if all(row["right"]) else " WRONG"
    return [
        row["layer"], row["dtype"], str(row["batch"]), _us(ours) + wrong, *(_us(row["peers"].get(p)) for p in PEERS),
        _us(row["floor"]), "" if ratio is None else f"{ratio:.2f}", f"{row['floor'] / ours:.0%}" if ours else "",
    ]  # fmt: skip


def _ratio(row: Row) -> float | None:
    """The best peer's time over ours."""
    return min(row["peers"].values()) / row["ours"] if row["ours"] and row["peers"] else None


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
