"""Applies a CUDA schedule record to the kernels of a layer.

``s_tir`` wants every stage in its final place before a reduction is taken apart, so that comes last.
"""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule as Transform

from sepcompile.compute.cuda_kernels import CudaKernel
from sepcompile.compute.cuda_record import SPLIT_DEPTH
from sepcompile.compute.cuda_rowwise import RowKernel

Block = Any
Loop = Any
# Four bytes more per row of a shared tile: rows that are read in one instruction then lie in different banks.
_PAD_BYTES = 16


def schedule_depthwise(kernel: CudaKernel) -> Any:
    """Scheduled PrimFunc of a depthwise kernel."""
    s, record = Transform(kernel.func), kernel.tile.record
    output = s.get_sblock("O")
    block, pixel, channel = s.get_loops(output)
    across, along = _thread_axes(kernel)
    pixel_threads, channel_threads = (
        (record.threads_y, record.threads_x) if across == "threadIdx.y" else (record.threads_x, record.threads_y)
    )
    passes, pixel_thread, column = s.split(pixel, [None, pixel_threads, record.window])
    outer, channel_thread, lane = s.split(channel, [None, channel_threads, record.lanes])
    s.reorder(block, outer, pixel_thread, channel_thread, passes, column, lane)
    s.bind(block, "blockIdx.x")
    s.bind(outer, "blockIdx.y")
    s.bind(pixel_thread, across)
    s.bind(channel_thread, along)
    s.unroll(column)
    _store(s, kernel, output, column, lane)
    sums = s.get_sblock("DW")
    s.compute_at(sums, passes, preserve_unit_loops=True)
    reduction = _window(s, kernel, sums)
    s.decompose_reduction(sums, reduction)
    unroll_tail(s, s.get_sblock("DW_init"), 2)
    return s.mod["main"]


def schedule_pointwise(kernel: CudaKernel) -> Any:
    """Scheduled PrimFunc of a fused or a pointwise kernel that multiplies on the ordinary cores."""
    s, tile, record = Transform(kernel.func), kernel.tile, kernel.tile.record
    rows, across = (
        (record.threads_y_b, record.threads_x_b) if tile.flat else (record.threads_y, record.threads_x)
    )
    # A thread's elements are neighbours: s_tir knows regions as intervals only.
    pixels, filters = tile.pixels // rows, record.tile_filters // across
    output, sums = s.get_sblock("O"), s.get_sblock("G")
    block, pixel, filter_ = s.get_loops(output)
    _, py, pi = s.split(pixel, [1, rows, pixels])
    outer, fx, fi = s.split(filter_, [None, across, filters])
    s.reorder(block, outer, py, fx, pi, fi)
    for loop, axis in ((block, "blockIdx.x"), (outer, "blockIdx.y"), (py, "threadIdx.y"), (fx, "threadIdx.x")):
        s.bind(loop, axis)
    s.unroll(pi)
    _store(s, kernel, output, pi, fi)
    s.compute_at(sums, fx, preserve_unit_loops=True)
    s.set_scope(sums, 0, "local")
    *_, pi, fi, k = s.get_loops(sums)
    depth = SPLIT_DEPTH if tile.flat else record.tile_channels
    k0, k1, k2 = s.split(k, [None, depth // 4, 4])
    s.reorder(k0, k1, k2, pi, fi)
    taps = _left_tile(s, kernel, k0, rows)
    right = s.cache_read(sums, 1, "shared")
    s.compute_at(right, k0, preserve_unit_loops=True)
    copy_tile(s, right, rows, across, 4 if record.tile_filters % 4 == 0 else 1)
    left = s.cache_read(sums, 0, "local")
    s.compute_at(left, k1, preserve_unit_loops=True)
    unroll_tail(s, left, 1, vectorize=True)
    fragment = s.cache_read(sums, 1, "local")
    s.compute_at(fragment, k2, preserve_unit_loops=True)
    s.vectorize(s.get_loops(fragment)[-1])
    for loop in (k2, pi, fi):
        s.unroll(loop)
    s.decompose_reduction(sums, k0)
    unroll_tail(s, s.get_sblock("G_init"), 1)
    if taps is not None:
        s.decompose_reduction(s.get_sblock("DW"), taps)
        unroll_tail(s, s.get_sblock("DW_init"), 2)
    return s.mod["main"]


def _thread_axes(kernel: CudaKernel) -> tuple[str, str]:
    """Thread axes of pixels and of channels: x runs along what is contiguous in memory."""
    if kernel.tile.form.channels_first_in:
        return "threadIdx.x", "threadIdx.y"
    return "threadIdx.y", "threadIdx.x"


def _left_tile(s: Any, kernel: CudaKernel, k0: Loop, rows: int) -> Loop | None:
    """The left operand's tile in shared memory; where it is computed there, the loop to take its sums apart at."""
    record = kernel.tile.record
    stage = s.get_sblock("D")
    s.set_scope(stage, 0, "shared")
    s.compute_at(stage, k0, preserve_unit_loops=True)
    depth = SPLIT_DEPTH if kernel.tile.flat else record.tile_channels
    s.storage_align(stage, 0, 1, depth, _PAD_BYTES // 4)
    if kernel.tile.flat:
        copy_tile(s, stage, rows, record.threads_x_b, 4)
        return None
    *_, pixel, channel = s.get_loops(stage)
    across, along = _thread_axes(kernel)
    pixel_threads, channel_threads = (rows, record.threads_x) if across == "threadIdx.y" else (record.threads_x, rows)
    passes, pixel_thread, column = s.split(pixel, [None, pixel_threads, record.window])
    outer, channel_thread, lane = s.split(channel, [None, channel_threads, record.lanes])
    s.reorder(passes, outer, pixel_thread, channel_thread, column, lane)
    s.bind(pixel_thread, across)
    s.bind(channel_thread, along)
    s.unroll(column)
    s.vectorize(lane)
    return window_sums(s, kernel, channel_thread)


def window_sums(s: Any, kernel: CudaKernel, thread: Loop) -> Loop:
    """A thread's depthwise results and sums under the loop ``thread``; returns the reduction's first loop."""
    held = s.get_sblock("DL")
    s.set_scope(held, 0, "local")
    s.compute_at(held, thread, preserve_unit_loops=True)
    unroll_tail(s, held, 1)
    sums = s.get_sblock("DW")
    s.compute_at(sums, thread, preserve_unit_loops=True)
    return _window(s, kernel, sums)


def _window(s: Any, kernel: CudaKernel, sums: Block) -> Loop:
    """Depthwise sums of one thread, with the input's register window; returns the reduction's first loop."""
    s.set_scope(sums, 0, "local")
    *_, pixel, lane, dy, do, di = s.get_loops(sums)
    s.reorder(dy, do, di, pixel, lane)
    for loop in (di, pixel, lane):
        s.unroll(loop)
    window = s.get_sblock("XI")
    s.set_scope(window, 0, "local")
    s.compute_at(window, do, preserve_unit_loops=True)
    unroll_tail(s, window, 1, vectorize=kernel.tile.form.pre is None and _contiguous(kernel))
    return dy


def _contiguous(kernel: CudaKernel) -> bool:
    """Whether a thread's channels are neighbours in the input."""
    return not kernel.tile.form.channels_first_in and kernel.tile.form.depthwise.depth_multiplier == 1


def _store(s: Any, kernel: CudaKernel, output: Block, at: Loop, lane: Loop) -> None:
    """Store results as vectors where they are whole and contiguous."""
    form = kernel.tile.form
    held = s.get_sblock("E")
    s.set_scope(held, 0, "local")
    s.compute_at(held, at, preserve_unit_loops=True)
    unroll_tail(s, held, 1)
    width = int(s.get(lane).extent)
    first = form.channels_first_out and kernel.operands["O"] == "y"
    if not first and form.out_channels % width == 0:
        s.vectorize(lane)
    else:
        s.unroll(lane)


def copy_tile(s: Any, block: Block, rows: int, columns: int, lanes: int) -> None:
    """All threads together copy a tile."""
    *_, a, b = s.get_loops(block)
    fused = s.fuse(a, b)
    _, y, x, lane = s.split(fused, [None, rows, columns, lanes])
    s.bind(y, "threadIdx.y")
    s.bind(x, "threadIdx.x")
    s.vectorize(lane)


def unroll_tail(s: Any, block: Block, loops: int, vectorize: bool = False) -> None:
    """Unroll the last ``loops`` + 1 loops of a block, or vectorize the last of them."""
    *_, lane = tail = s.get_loops(block)[-loops - 1 :]
    for loop in tail[:-1]:
        s.unroll(loop)
    (s.vectorize if vectorize else s.unroll)(lane)

def schedule_rowwise(kernel: RowKernel) -> Any:
    """Scheduled PrimFunc of a row-wise kernel: a thread computes its row's numbers, then walks the row."""
    s = Transform(kernel.func)
    block, thread, _ = s.get_loops(s.get_sblock("O"))
    s.bind(block, "blockIdx.x")
    s.bind(thread, "threadIdx.x")
    # Consumers first: a stage can only move under a loop that all of its consumers are already under.
    for name in reversed(kernel.stages):
        stage = s.get_sblock(name)
        s.set_scope(stage, 0, "local")
        s.compute_at(stage, _consumer_loop(s, stage, thread), preserve_unit_loops=True)
    return s.mod["main"]


def _consumer_loop(s: Any, stage: Block, thread: Loop) -> Loop:
    """Where a stage of a row is computed: in its consumer's walk of the row if it has a value per element."""
    if len(s.get(stage).writes[0].region) < 3:
        return thread
    (consumer,) = s.get_consumers(stage)
    return s.get_loops(consumer)[-1]
