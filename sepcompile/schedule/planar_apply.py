"""Applies a planar schedule record to the kernels of a channels_first layer.

The order of primitives matters as in ``schedule.cpu``.
"""

from __future__ import annotations

import math
from typing import Any

from tvm.s_tir import Schedule as Transform

from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.schedule.loops import decompose, unroll_taps, unroll_tile

Block = Any
Loop = Any


def schedule_fused(kernel: KernelIR, layer: PlanarLayer) -> Any:
    """Scheduled PrimFunc of a fused kernel; one task is one block."""
    s = Transform(kernel.func)
    block, _, reduction = _pointwise(s, layer)
    stage = s.get_sblock("D")
    s.compute_at(stage, block, preserve_unit_loops=True)
    loops = s.get_loops(stage)[-6:]
    taps = _depthwise(s, layer, stage, loops[0], loops[1:])
    s.parallel(block)
    decompose(s, "DA", taps)
    decompose(s, "G", reduction)
    return s.mod["main"]


def schedule_depthwise(kernel: KernelIR, layer: PlanarLayer, output: str) -> Any:
    """Scheduled PrimFunc of a depthwise kernel whose last stage is ``output``; one task is one channel of one block."""
    s = Transform(kernel.func)
    stage = s.get_sblock(output)
    block, channel, *loops = s.get_loops(stage)
    task = s.fuse(block, channel)
    taps = _depthwise(s, layer, stage, task, loops)
    s.parallel(task)
    decompose(s, "DA", taps)
    return s.mod["main"]


def schedule_pointwise(kernel: KernelIR, layer: PlanarLayer) -> Any:
    """Scheduled PrimFunc of a split layer's pointwise kernel; one task is one weight panel or one pixel tile."""
    s = Transform(kernel.func)
    _, outer, reduction = _pointwise(s, layer)
    s.parallel(outer)
    decompose(s, "G", reduction)
    return s.mod["main"]


def _pointwise(s: Any, layer: PlanarLayer) -> tuple[Loop, Loop, Loop]:
    """Schedule the pointwise stages; returns the block loop, the outer of the two tile loops, the reduction's first."""
    record = layer.record
    output = s.get_sblock("O")
    block, panel, tile, number, vector, lane = s.get_loops(output)
    outer, inner = (tile, panel) if record.order == "pixel" else (panel, tile)
    s.reorder(block, outer, inner, number, vector, lane)
    s.vectorize(lane)
    sums = s.get_sblock("G")
    if not layer.form.final.is_light:
        copy = s.get_sblock("GC")
        s.compute_at(copy, inner, preserve_unit_loops=True)
        unroll_tile(s, copy, 2)
    else:
        s.unroll(number)
        s.unroll(vector)
    s.compute_at(sums, inner, preserve_unit_loops=True)
    *_, i, j, lane, k = s.get_loops(sums)
    outer_k, inner_k = s.split(k, [None, math.gcd(layer.form.channels, record.k_unroll)])
    s.reorder(outer_k, inner_k, i, j, lane)
    for loop in (inner_k, i, j):
        s.unroll(loop)
    s.vectorize(lane)
    s.set_scope(sums, 0, "local")
    return block, outer, outer_k


def _depthwise(s: Any, layer: PlanarLayer, stage: Block, channel: Loop, loops: list[Loop]) -> Loop:
    """Schedule the depthwise sums under ``stage``, given its loop over channels and those inside of it.

    Returns the first loop of the reduction.
    """
    record = layer.record
    _, column_tile, row, vector, lane = loops
    s.unroll(row)
    s.unroll(vector)
    s.vectorize(lane)
    sums, padded = s.get_sblock("DA"), s.get_sblock("P")
    s.compute_at(sums, column_tile, preserve_unit_loops=True)
    s.compute_at(padded, channel, preserve_unit_loops=True)
    *_, phase, copied, lane = s.get_loops(padded)
    s.unroll(phase)
    if layer.staged_shape[-2] <= MOST_UNROLLED_COPIES:
        s.unroll(copied)
    s.vectorize(lane)
    return unroll_taps(s, sums, record.tap_unroll, record.unroll_rows, layer.form.depthwise.kernel_size[1])


# A staged row's vectors are unrolled up to here, so that which are zeros is known when compiling.
MOST_UNROLLED_COPIES = 16
