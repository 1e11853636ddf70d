"""Loads of every second, third or fourth element as whole vectors and a shuffle; LLVM would load each element."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

MOST_STRIDE = 4  # beyond it single elements are as fast


def strided_by_shuffle(func: Any) -> Any:
    """Replace each load ``x[b : b + s * lanes : s]`` by ``s`` vector loads of no element beyond its last one."""
    return func.with_body(tvm_ffi.structural_map(func.body, [(TensorLoad, _load)]))


def _load(node: Any) -> Any:
    index = node.indices[0] if len(node.indices) == 1 else None
    if not isinstance(index, tirx.Ramp) or not isinstance(index.stride, tirx.IntImm | int):
        return node
    stride, lanes = int(index.stride), int(index.lanes)
    if not 1 < stride <= min(MOST_STRIDE, lanes):
        return node
    # The last vector starts earlier, so that it ends with the last element.
    starts = [*(number * lanes for number in range(stride - 1)), stride * (lanes - 1) + 1 - lanes]
    vectors = [node.source.vload([tirx.Ramp(index.base + start, 1, lanes)]) for start in starts]
    picked = []
    for position in range(0, stride * lanes, stride):
        number = min(position // lanes, stride - 1)
        picked.append(number * lanes + position - starts[number])
    return tirx.Shuffle(vectors, picked)
