"""Loads in which neighbouring lanes read the same element, as a short vector load and a shuffle."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

Expr = Any


def repeat_by_shuffle(func: Expr) -> Expr:
    """Loads of the form ``x[b + lane // m]`` become a load of lanes / m elements and a shuffle.

    So the depthwise stage reads its input for a depth multiplier of ``m``; LLVM would load each lane.
    """

    def load(node: Expr) -> Expr:
        if len(node.indices) != 1:
            return node
        base, lane = _split(node.indices[0])
        if lane is None or (found := _repeats(lane)) is None:
            return node
        lanes, repeat = found
        short = node.source.vload([tirx.Ramp(base, 1, lanes // repeat) if lanes > repeat else base])
        if lanes == repeat:
            return tirx.Broadcast(short, lanes)
        # TVM allows no more indices than it is given lanes, so the short vector is given several times.
        return tirx.Shuffle([short] * repeat, [i // repeat for i in range(lanes)])

    return func.with_body(tvm_ffi.structural_map(func.body, [(TensorLoad, load)]))


def _split(index: Expr) -> tuple[Expr, Expr | None]:
    """A vector of indices as what all lanes share, a scalar, and the rest, None where nothing is left."""
    if isinstance(index, tirx.Broadcast):
        return index.value, None
    if isinstance(index, tirx.Add | tirx.Sub):
        (a, rest), (b, other) = _split(index.a), _split(index.b)
        if other is None:
            return (a + b if isinstance(index, tirx.Add) else a - b), rest
        if rest is None and isinstance(index, tirx.Add):
            return a + b, other
    return tirx.const(0, "int32"), index


def _repeats(lane: Expr) -> tuple[int, int] | None:
    """(lanes, m) of a vector ``lane // m`` whose lanes count from 0, where m divides them."""
    if not (isinstance(lane, tirx.FloorDiv) and isinstance(lane.a, tirx.Ramp) and isinstance(lane.b, tirx.Broadcast)):
        return None
    numbers = (lane.a.base, lane.a.stride, lane.a.lanes, lane.b.value)
    if not all(isinstance(number, tirx.IntImm | int) for number in numbers):
        return None
    start, stride, lanes, repeat = map(int, numbers)
    return (lanes, repeat) if start == 0 and stride == 1 and lanes % repeat == 0 else None
