"""Transposes between channels_first and channels_last, one kernel each way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from sepcompile.compute.kernel import Builder, KernelIR
from sepcompile.compute.views import View, clamp

Expr = Any


@dataclass(frozen=True)
class Relayout:
    """The transpose of a (rows, columns) matrix by square tiles of ``tile``; channels_last is (pixels, channels)."""

    rows: int
    columns: int
    tile: int
    dtype: str

    @staticmethod
    def of(rows: int, columns: int, float_lanes: int, dtype: str) -> Relayout:
        """With the largest tile that fits both sides."""
        tile = float_lanes
        while tile > min(rows, columns):
            tile //= 2
        return Relayout(rows, columns, tile, dtype)

    @property
    def tasks(self) -> int:
        """One task writes ``tile`` rows of the result."""
        return -(-self.columns // self.tile)


def relayout_kernel(shape: Relayout, source: str, target: str) -> KernelIR:
    """Transposes (rows, columns) to (columns, rows); its output stage is ``O``."""
    builder = Builder()
    x = builder.operand(source, (shape.rows * shape.columns,), shape.dtype)
    t = shape.tile

    def value(cb: Expr, rb: Expr, i: Expr, j: Expr) -> Expr:
        return x[(clamp(rb, t, shape.rows) + j) * shape.columns + clamp(cb, t, shape.columns) + i]

    def store(index: Sequence[Expr]) -> Expr:
        cb, rb, i, j = index
        return (clamp(cb, t, shape.columns) + i) * shape.rows + clamp(rb, t, shape.rows) + j

    output = te.compute((shape.tasks, -(-shape.rows // t), t, t), value, "O")
    return builder.finish(output, target, {"O": View(shape.rows * shape.columns, store, store)})
