"""Applies a schedule record to the kernels of a layer: the transforms that every CPU family shares.

The order of primitives matters to s_tir: ``parallel`` refuses a block whose reduction is already decomposed, and
``compute_at`` needs its consumer's loops in their final order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.s_tir import Schedule as Transform

from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.layer import Layer
from sepcompile.schedule.loops import decompose, unroll_taps, unroll_tile

# Marks the loops of a fused kernel, from the blocks' inwards, between which the next block's input is asked for.
AHEAD_LOOP = "sepcompile_ahead"

Block = Any
Loop = Any


def schedule_fused(kernel: KernelIR, layer: Layer) -> Any:
    """Scheduled PrimFunc of a fused kernel; one task is one block."""
    s = Transform(kernel.func)
    loops = _pointwise(s, layer)
    stage = s.get_sblock("D")
    s.compute_at(stage, loops.block, preserve_unit_loops=True)
    taps = _depthwise(s, layer, stage, s.get_loops(stage)[-6:])
    for role, loop in enumerate((loops.block, loops.outer, loops.inner, *loops.channels) if kernel.ahead else ()):
        s.annotate(loop, AHEAD_LOOP, role)
    s.parallel(loops.block)
    decompose(s, "DA", taps)
    decompose(s, "G", loops.channels[0])
    return s.mod["main"]


def schedule_depthwise(kernel: KernelIR, layer: Layer, output: str) -> Any:
    """Scheduled PrimFunc of a depthwise kernel whose last stage is ``output`` (``O`` or ``D``).

    One task is one block of a depthwise layer; of a split layer, whose only block is the image, one row of tiles, or
    one vector of channels where these are the outer loop.
    """
    s = Transform(kernel.func)
    stage = s.get_sblock(output)
    block, channel, row_tile, *_ = loops = s.get_loops(stage)
    taps = _depthwise(s, layer, stage, loops[1:])
    s.parallel((channel if layer.by_channel else row_tile) if layer.record.split else block)
    decompose(s, "DA", taps)
    return s.mod["main"]


def schedule_pointwise(kernel: KernelIR, layer: Layer) -> Any:
    """Scheduled PrimFunc of a split layer's pointwise kernel.

    One task is one weight panel for a group of pixel tiles, or one pixel tile for all panels.
    """
    s = Transform(kernel.func)
    loops = _pointwise(s, layer)
    s.parallel(loops.outer)
    decompose(s, "G", loops.channels[0])
    return s.mod["main"]


@dataclass(frozen=True)
class _PointwiseLoops:
    """The loops that later steps need: block, the two tile loops, and those of the channels that are not unrolled."""

    block: Loop
    outer: Loop
    inner: Loop
    channels: tuple[Loop, ...]


def _pointwise(s: Any, layer: Layer) -> _PointwiseLoops:
    record = layer.record
    output = s.get_sblock("O")
    block, panel, tile, pixel, vector, lane = s.get_loops(output)
    if record.tile_groups > 1:
        group, inner = s.split(tile, [record.tile_groups, None])
        s.reorder(block, group, panel, inner, pixel, vector, lane)
        outer = s.fuse(group, panel)
    else:
        outer, inner = (tile, panel) if record.order == "pixel" else (panel, tile)
        s.reorder(block, outer, inner, pixel, vector, lane)
    s.vectorize(lane)
    sums = s.get_sblock("G")
    if not layer.form.final.is_light:
        copy = s.get_sblock("GC")
        s.compute_at(copy, inner, preserve_unit_loops=True)
        unroll_tile(s, copy, 2)
    else:
        s.unroll(pixel)
        s.unroll(vector)
    s.compute_at(sums, inner, preserve_unit_loops=True)
    *_, i, j, lane, k = s.get_loops(sums)
    outer_k = _split_channels(s, layer, k)
    s.reorder(*outer_k, i, j, lane)
    s.unroll(outer_k[-1])
    s.unroll(i)
    s.unroll(j)
    s.vectorize(lane)
    s.set_scope(sums, 0, "local")
    return _PointwiseLoops(block, outer, inner, tuple(outer_k[:-1]))


def _split_channels(s: Any, layer: Layer, k: Loop) -> list[Loop]:
    """Split the reduction so that its unrolled part lies in one channel block, or in whole ones, and ends with it."""
    channels, lanes, unroll = layer.form.depthwise_channels, layer.record.depthwise_lanes, layer.record.k_unroll
    if unroll > lanes and unroll % lanes == 0 and channels % unroll == 0:
        return list(s.split(k, [None, unroll]))
    unroll = math.gcd(math.gcd(channels, lanes), unroll)
    if channels % lanes:
        return list(s.split(k, [None, unroll]))
    return list(s.split(k, [None, lanes // unroll, unroll]))


def _depthwise(s: Any, layer: Layer, stage: Block, loops: list[Loop]) -> Loop:
    """Schedule the depthwise sums under ``stage``, given its loops after the block's in the order of ``tile_shape``.

    Returns the first loop of the reduction.
    """
    record = layer.record
    channel, row_tile, column_tile, row, column, lane = loops
    if layer.by_channel:
        s.reorder(channel, row_tile, column_tile, row, column, lane)
        inner = column_tile
    else:
        s.reorder(row_tile, column_tile, channel, row, column, lane)
        inner = channel
    s.unroll(row)
    s.unroll(column)
    s.vectorize(lane)
    sums = s.get_sblock("DA")
    s.compute_at(sums, inner, preserve_unit_loops=True)
    padded = s.get_sblock("P")
    if record.staged:
        s.compute_at(padded, channel, preserve_unit_loops=True)
        s.vectorize(s.get_loops(padded)[-1])
    else:
        s.compute_inline(padded)
    return unroll_taps(s, sums, record.tap_unroll, record.unroll_rows, layer.form.depthwise.kernel_size[1])
