"""Schedules of matrix products on tensor cores: 16-bit operands or TF32, and float32 sums.

A block has 32 threads along x, a warp, and its warps along y. The depthwise stage, or a copy, fills the left tile in
shared memory; each warp multiplies its part of the tile; the sums go through shared memory to the epilogue.
"""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule as Transform

from sepcompile.compute.cuda_kernels import CudaKernel
from sepcompile.compute.cuda_record import product_depth
from sepcompile.schedule import cuda_intrinsics as intrinsics
from sepcompile.schedule.cuda import RIGHT_PAD, item_bytes, warp_grid
from sepcompile.schedule.cuda_apply import copy_tile, unroll_tail, window_sums
from sepcompile.schedule.cuda_intrinsics import FRAGMENT

WARP = 32
_PAD_BYTES = 16  # rows that one instruction reads then lie in different banks


def schedule_product(kernel: CudaKernel) -> Any:
    """Scheduled PrimFunc of a fused or a pointwise kernel on tensor cores."""
    s, tile, record = Transform(kernel.func), kernel.tile, kernel.tile.record
    warps = record.threads_y_b if tile.flat else record.threads_y
    depth, item = product_depth(tile.form, record), item_bytes(tile.form)
    fragment = _depth_of_fragment(kernel)
    output, accumulators = s.get_sblock("O"), s.get_sblock("G")
    sums = s.cache_write(accumulators, 0, "wmma.accumulator")
    block, pixel, filter_ = s.get_loops(output)
    outer, filter_ = s.split(filter_, [None, record.tile_filters])
    s.reorder(block, outer, pixel, filter_)
    s.bind(block, "blockIdx.x")
    s.bind(outer, "blockIdx.y")
    _store(s, kernel, output, pixel, filter_, warps)
    s.set_scope(sums, 0, "shared")
    s.compute_at(sums, outer, preserve_unit_loops=True)
    warp = _warp_tiles(s, kernel, sums, warps)
    s.compute_at(accumulators, warp, preserve_unit_loops=True)
    *_, p, f, k = s.get_loops(accumulators)
    k0, k1, k2 = s.split(k, [None, depth // fragment, fragment])
    p0, p1 = s.split(p, [None, FRAGMENT])
    f0, f1 = s.split(f, [None, FRAGMENT])
    s.reorder(k0, k1, p0, f0, p1, f1, k2)
    taps = _left(s, kernel, k0, warps, depth)
    right = s.cache_read(accumulators, 1, "shared")
    s.compute_at(right, k0, preserve_unit_loops=True)
    copy_tile(s, right, warps, WARP, 16 // item)
    s.storage_align(right, 0, 0, record.tile_filters, RIGHT_PAD)
    _load_fragments(s, kernel, accumulators, k1)
    _multiply(s, kernel, accumulators, s.decompose_reduction(accumulators, k0), sums)
    # Tensorizing put a block of its own around each store.
    s.storage_align(s.get_sblock("G_wmma.accumulator_o"), 0, 1, record.tile_filters, _PAD_BYTES // 4)
    if taps is not None:
        s.decompose_reduction(s.get_sblock("DW"), taps)
        unroll_tail(s, s.get_sblock("DW_init"), 2)
    if record.stages == 2:
        _pipeline(s, k0, tile.flat)
    return s.mod["main"]


def _pipeline(s: Any, k0: Any, flat: bool) -> None:
    """The next tiles of what comes from memory, both of a product alone, are copied while the last are multiplied.

    Under ``k0`` are the left tile, the right tile and the multiplication.
    """
    stages = [0, 0, 1] if flat else [1, 0, 1]
    s.annotate(k0, "software_pipeline_stage", stages)
    s.annotate(k0, "software_pipeline_order", [0, 1, 2] if flat else [1, 0, 2])
    s.annotate(k0, "software_pipeline_async_stages", [0])


def _depth_of_fragment(kernel: CudaKernel) -> int:
    """Channels of one fragment: 32 bytes."""
    return 32 // item_bytes(kernel.tile.form)


def _store(s: Any, kernel: CudaKernel, output: Any, pixel: Any, filter_: Any, warps: int) -> None:
    """The epilogue: threads along filters, each with as many as it can store at once."""
    form, record = kernel.tile.form, kernel.tile.record
    # 16 bytes: of float32, TVM would store 32 at once, which a tensor's address need not be a multiple of.
    width = min(4 if form.out_dtype == "float32" else 8, record.tile_filters // 8)
    _, lane = s.split(filter_, [None, width])
    fused = s.fuse(pixel, s.get_loops(output)[-2])
    _, y, x = s.split(fused, [None, warps, WARP])
    s.bind(y, "threadIdx.y")
    s.bind(x, "threadIdx.x")
    held = s.get_sblock("E")
    s.set_scope(held, 0, "local")
    s.compute_at(held, x, preserve_unit_loops=True)
    unroll_tail(s, held, 1)
    first = form.channels_first_out and kernel.operands["O"] == "y"
    if not first and form.out_channels % width == 0:
        s.vectorize(lane)
    else:
        s.unroll(lane)


def _warp_tiles(s: Any, kernel: CudaKernel, sums: Any, warps: int) -> Any:
    """Gives each warp its part of the sums, whole fragments; returns the loop over warps."""
    tile, record = kernel.tile, kernel.tile.record
    along, across = warp_grid(tile.pixels, record.tile_filters, warps)
    *_, p, f = s.get_loops(sums)
    wp, p0, p1 = s.split(p, [along, None, FRAGMENT])
    wf, f0, f1 = s.split(f, [across, None, FRAGMENT])
    s.reorder(wp, wf, p0, f0, p1, f1)
    warp = s.fuse(wp, wf)
    s.bind(warp, "threadIdx.y")
    return warp


def _left(s: Any, kernel: CudaKernel, k0: Any, warps: int, depth: int) -> Any | None:
    """The left tile in shared memory; where it is computed there, the loop to take its sums apart at."""
    record = kernel.tile.record
    stage = s.get_sblock("D")
    s.set_scope(stage, 0, "shared")
    s.compute_at(stage, k0, preserve_unit_loops=True)
    wide = 16 // item_bytes(kernel.tile.form)
    s.storage_align(stage, 0, 1, depth, wide)
    if kernel.tile.flat:
        copy_tile(s, stage, warps, WARP, wide)
        return None
    *_, pixel, channel = s.get_loops(stage)
    channel_threads = depth // record.lanes
    _, y, x, column = s.split(pixel, [None, warps, WARP // channel_threads, record.window])
    _, thread, lane = s.split(channel, [1, channel_threads, record.lanes])
    s.reorder(y, x, thread, column, lane)
    across = s.fuse(x, thread)
    s.bind(y, "threadIdx.y")
    s.bind(across, "threadIdx.x")
    s.unroll(column)
    s.vectorize(lane)
    return window_sums(s, kernel, across)


def _load_fragments(s: Any, kernel: CudaKernel, accumulators: Any, k1: Any) -> None:
    """Loads of the operands' fragments, on their instructions."""
    left, right = s.cache_read(accumulators, 0, "wmma.matrix_a"), s.cache_read(accumulators, 1, "wmma.matrix_b")
    depth, dtype = _depth_of_fragment(kernel), kernel.tile.form.in_dtype
    for block, rows, columns in ((left, FRAGMENT, depth), (right, depth, FRAGMENT)):
        s.compute_at(block, k1, preserve_unit_loops=True)
        *_, a, b = s.get_loops(block)
        a0, a1 = s.split(a, [None, rows])
        b0, b1 = s.split(b, [None, columns])
        s.reorder(a0, b0, a1, b1)
        s.unroll(a0)
        s.unroll(b0)
        s.tensorize(a1, intrinsics.load(dtype, depth, block is right))


def _multiply(s: Any, kernel: CudaKernel, accumulators: Any, init: Any, sums: Any) -> None:
    """Multiplications, clearing and stores of the sums' fragments, on their instructions."""
    *_, p0, f0, p1, _, _ = s.get_loops(accumulators)
    s.unroll(p0)
    s.unroll(f0)
    s.tensorize(p1, intrinsics.multiply(kernel.tile.form.in_dtype, _depth_of_fragment(kernel)))
    *_, p0, f0, p1, _ = s.get_loops(init)
    s.unroll(p0)
    s.unroll(f0)
    s.tensorize(p1, intrinsics.clear())
    *_, p0, f0, p1, _ = s.get_loops(sums)
    s.unroll(p0)
    s.unroll(f0)
    s.tensorize(p1, intrinsics.store())
