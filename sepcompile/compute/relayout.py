"""Transposes between channels_first and channels_last, one kernel each way.

A square tile of ``tile`` vectors is transposed in registers: log2(tile) rounds that interleave vector i with vector
i + tile/2 (the perfect shuffle). LLVM makes vector permutes of them; left to itself it would gather single elements,
at a tenth of the speed. The kernel is written as TIR, since a tensor expression cannot name the lanes of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.views import clamp

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
    """Transposes (rows, columns) to (columns, rows); already scheduled: one task for each ``tile`` columns."""
    from tvm import tirx

    elements, t = shape.rows * shape.columns, shape.tile
    x = tirx.decl_buffer((elements,), shape.dtype, "x")
    y = tirx.decl_buffer((elements,), shape.dtype, "y")
    task, step = tirx.Var("task", "int32"), tirx.Var("step", "int32")
    first_column, first_row = clamp(task, t, shape.columns), clamp(step, t, shape.rows)
    rows = [x.vload([_span((first_row + i) * shape.columns + first_column, t)]) for i in range(t)]
    stores = [
        tirx.BufferStore(y, vector, [_span((first_column + i) * shape.rows + first_row, t)])
        for i, vector in enumerate(_transposed(rows))
    ]
    inner = tirx.For(step, 0, -(-shape.rows // t), tirx.ForKind.SERIAL, tirx.SeqStmt(stores), None, {})
    outer = tirx.For(task, 0, shape.tasks, tirx.ForKind.PARALLEL, inner, None, {})
    func = tirx.PrimFunc([x, y], outer).with_attr("tirx.noalias", True)
    return KernelIR(func, (source, target), {})


def _span(start: Expr, lanes: int) -> Expr:
    from tvm import tirx

    return start if lanes == 1 else tirx.Ramp(start, 1, lanes)


def _transposed(vectors: list[Expr]) -> list[Expr]:
    """The columns of a square matrix given by its rows."""
    from tvm import tirx

    lanes = len(vectors)
    low = [i for pair in zip(range(lanes // 2), range(lanes, lanes + lanes // 2), strict=True) for i in pair]
    high = [i + lanes // 2 for i in low]
    rounds = lanes.bit_length() - 1
    for _ in range(rounds):
        pairs = list(zip(vectors[: lanes // 2], vectors[lanes // 2 :], strict=True))
        vectors = [tirx.Shuffle([a, b], half) for a, b in pairs for half in (low, high)]
    return vectors
