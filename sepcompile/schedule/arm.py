"""Chooses a schedule for Arm CPUs with NEON from the machine model.

A register tile multiplies vectors of filters by single lanes of vectors of channels, so that it loads one vector per
pixel and one per vector of filters for each four, or one, of its multiply-adds' channels. Every such tile runs at the
multipliers' full rate as long as nothing spills; tiles and blocks are therefore chosen by what they waste, and by how
often they bring weights and pixels into the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.schedule.blocks import (
    LONG_KERNEL,
    column_tile,
    depthwise_block,
    even_tile,
    lanes_of,
    repeats_lanes,
    window,
)
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine

# Below this a layer takes some microseconds, and a second join of threads shows.
SMALL_MACS = 1_000_000
_LINE = 64
# In cycles. Weights stream in order, so that a prefetcher hides most of what the second level takes to answer.
_L1_MISS, _L2_MISS = 0.7, 30.0
# Of an instruction that is no multiply-add, and of the loads and stores that begin and end a register tile.
_INSTRUCTION, _TILE_ENDS = 0.2, 6.0
# Of sixteen registers, for how many pixels of a tile four channels at once leave room: LLVM loads all weights of a
# single vector of filters before it uses them, and puts sums of taller tiles on the stack.
_MOST_PIXELS = 5
# Of a cache, how much of it a block may count on.
_SHARE = 0.9


def choose(form: Form, machine: Machine) -> Schedule:
    """The heuristic's record for ``form``, always one that ``check_record`` accepts."""
    record = _depthwise_layer(form, machine) if form.pointwise is None else _separable_layer(form, machine)
    check_record(record, form, machine)
    return record


def _separable_layer(form: Form, machine: Machine) -> Schedule:
    depthwise = _depthwise_tile(form, machine)
    plan = min(_plans(form, machine), key=lambda plan: _cost(form, machine, plan))
    return Schedule(
        lanes=lanes_of(form.out_channels, machine),
        depthwise_lanes=depthwise.lanes,
        rows=plan.rows,
        columns=plan.columns,
        tile_rows=1,
        tile_columns=column_tile(plan.columns, depthwise.columns, depthwise.staged),
        tap_unroll=depthwise.taps,
        unroll_rows=depthwise.unroll_rows,
        staged=depthwise.staged,
        tile_pixels=plan.tile.pixels,
        tile_vectors=plan.tile.vectors,
        k_unroll=max(depthwise.lanes, _k_unroll(form, machine, plan)),
        order=plan.order,
        split=plan.split,
        tile_groups=plan.groups,
    )


def _depthwise_layer(form: Form, machine: Machine) -> Schedule:
    kh, kw = form.depthwise.kernel_size
    tile = _depthwise_tile(form, machine)
    rows, columns = depthwise_block(form, machine)
    width = tile.columns
    if not form.final.is_light:
        # The unrolled activation needs registers beside the accumulators, and a long kernel its window.
        width = min(width, (4 if tile.staged else 8) if machine.vector_registers >= 32 else 1)
    return Schedule(
        lanes=lanes_of(form.out_channels, machine),
        depthwise_lanes=tile.lanes,
        rows=rows,
        columns=columns,
        tile_rows=1,
        tile_columns=column_tile(columns, width, tile.staged),
        tap_unroll=tile.taps,
        unroll_rows=kh * kw <= 49 and machine.vector_registers >= 32,
        staged=tile.staged,
    )


@dataclass(frozen=True)
class _DepthwiseTile:
    lanes: int
    columns: int
    taps: int
    unroll_rows: bool
    staged: bool


def _depthwise_tile(form: Form, machine: Machine) -> _DepthwiseTile:
    """Output columns and channels that are summed at once.

    Two vectors of channels share the tests of the image's borders, and their loads are paired; with strides the windows
    of the columns share too little for the registers.
    """
    stage = form.depthwise
    (kh, kw), registers = stage.kernel_size, machine.vector_registers
    lanes = lanes_of(form.depthwise_channels, machine)
    staged = kw >= LONG_KERNEL or not repeats_lanes(form, machine)
    columns = _depthwise_columns(form, machine, staged)
    pairs = form.depthwise_channels % (2 * lanes) == 0 and 2 * columns + 2 <= registers // 2
    if pairs and kh * kw <= 9 and stage.strides == (1, 1) and not staged and form.final.is_light:
        lanes *= 2
    taps = kw if kw < LONG_KERNEL else window(kw)
    if registers < 32 and kw >= LONG_KERNEL:
        # LLVM unrolls the loop over a kernel of up to 16 columns by itself, and spills what a window adds to it.
        taps = 1 if kw <= 16 else 3
    return _DepthwiseTile(lanes, columns, taps, lanes > 4, staged)


def _depthwise_columns(form: Form, machine: Machine, staged: bool) -> int:
    """The most columns of a depthwise tile whose sums, and what LLVM loads ahead, stay in registers."""
    stage, kw = form.depthwise, form.depthwise.kernel_size[1]
    if machine.vector_registers < 32:
        if stage.strides[1] > 1:
            # The columns' windows hardly meet.
            return 2 if staged or form.pointwise is None else 1
        return 4 if staged or kw > 3 or stage.dilation_rate[1] > 1 else 6
    if stage.dilation_rate[1] > 1 and not staged:
        # Outputs that share an input are not neighbours.
        return 4
    if staged:
        return 10
    return 14 if kw >= 7 else 7


@dataclass(frozen=True)
class _Tile:
    """A pointwise register tile, pixels x vectors of filters."""

    pixels: int
    vectors: int


@dataclass(frozen=True)
class _Plan:
    """A way through the image: blocks, the register tile, and which of its loops is the outer one."""

    rows: int
    columns: int
    tile: _Tile
    order: str
    split: bool
    groups: int = 1


def _plans(form: Form, machine: Machine) -> Iterator[_Plan]:
    whole = (form.out_height, form.out_width)
    vectors = -(-form.out_channels // lanes_of(form.out_channels, machine))
    tiles = list(_tiles(machine, vectors))
    for rows, columns in dict.fromkeys((*_blocks(form), whole)):
        for tile in tiles:
            if tile.pixels > rows * columns:
                continue
            yield _Plan(rows, columns, tile, "pixel", False)
            yield _Plan(rows, columns, tile, "panel", False)
            if (rows, columns) == whole and form.macs >= SMALL_MACS:
                yield _Plan(rows, columns, tile, "pixel", True)
                tiles_of_image = -(-rows * columns // tile.pixels)
                for groups in (1, 2, 3, 4, 5, 6, 7, 8):
                    if tiles_of_image % groups == 0:
                        yield _Plan(rows, columns, tile, "panel", True, groups)


def _tiles(machine: Machine, vectors: int) -> Iterator[_Tile]:
    """Tiles whose sums, pixels and weights fit in the registers together."""
    spare, most = (3, machine.tile_registers) if machine.vector_registers >= 32 else (1, _MOST_PIXELS)
    for width in range(1, min(6, vectors) + 1):
        for height in range(1, most + 1):
            # Some are left over: LLVM's order of the loads keeps a few more vectors than are in use.
            if height * width + height + width <= machine.tile_registers - spare:
                yield _Tile(height, width)


def _blocks(form: Form) -> Iterator[tuple[int, int]]:
    """Candidate blocks (rows, columns)."""
    if form.out_height == 1:
        for size in (16, 28, 32, 40, 48, 56, 64, 80, 100, 128, 200):
            yield 1, even_tile(form.out_width, size)
    else:
        for size in range(1, min(form.out_height, 16) + 1):
            yield even_tile(form.out_height, size), form.out_width


def _k_unroll(form: Form, machine: Machine, plan: _Plan) -> int:
    """Two vectors of channels at once where loads of both can be paired: 1008 bytes is as far as a pair reaches."""
    lanes = lanes_of(form.depthwise_channels, machine)
    if machine.vector_registers < 32:
        return lanes
    # Eight channels of more pixels would not leave the registers that their loads need.
    near = plan.tile.pixels <= 10 and (plan.rows * plan.columns + 1 + plan.tile.pixels) * lanes * 4 <= 1008
    return 2 * lanes if near and form.depthwise_channels % (2 * lanes) == 0 else lanes


def _cost(form: Form, machine: Machine, plan: _Plan) -> float:
    """Cycles for one image, a thread's and all threads' in equal parts: what the product and the depthwise stage take,
    and what misses the caches.

    Where nothing lies between the second level and the memory, the cores share what is behind a miss: it stays as it
    is when the rest is divided among threads, which may have to wait for the last one.
    """
    blocks = -(-form.out_height // plan.rows) * -(-form.out_width // plan.columns)
    pixels = plan.rows * plan.columns
    lanes = lanes_of(form.out_channels, machine)
    panels = -(-form.out_channels // (lanes * plan.tile.vectors))
    tiles = -(-pixels // plan.tile.pixels)
    product = blocks * panels * tiles * _tile_cycles(form, machine, plan.tile)
    depthwise = blocks * pixels * -(-form.depthwise_channels // 4) * form.taps / machine.fma_ports * 1.4
    tasks = (tiles if plan.order == "pixel" else panels * plan.groups) if plan.split else blocks
    waiting = -(-tasks // machine.cores) * machine.cores / tasks
    threads = 1 if form.macs < SMALL_MACS else machine.cores
    shared = threads if machine.l3_bytes == 0 else 1
    near, far = _misses(form, machine, plan, blocks, panels, tiles)
    return (product + depthwise) * (0.5 + 0.5 * waiting if threads > 1 else 1.0) + near + far * (1 + shared) / 2


def _tile_cycles(form: Form, machine: Machine, tile: _Tile) -> float:
    """One register tile over all channels."""
    sums, lanes = tile.pixels * tile.vectors, 4
    multiply = max(lanes * sums / machine.fma_ports, lanes * machine.fma_latency)
    # Loads come in pairs where registers allow; a loop of its own has four instructions.
    besides = (tile.pixels + lanes * tile.vectors) / 2 + 4
    loads = (tile.pixels + lanes * tile.vectors) / machine.load_ports
    steps = -(-form.depthwise_channels // lanes)
    return steps * (max(multiply, loads) + _INSTRUCTION * besides) + _TILE_ENDS * sums / machine.fma_ports


def _misses(form: Form, machine: Machine, plan: _Plan, blocks: int, panels: int, tiles: int) -> tuple[float, float]:
    """Cycles for what the first and the second level miss: weights and depthwise results, as often as the order of
    loops reads them."""
    image = plan.rows * plan.columns * form.depthwise_channels * 4
    weights = form.depthwise_channels * form.out_channels * 4
    # What is walked before the weights come again, and how often that is.
    between, rounds = image / plan.groups, blocks * plan.groups
    output = plan.rows * plan.columns * form.out_channels * 4 / plan.groups
    panel, tile = weights / panels, image / tiles
    l1, l2 = machine.l1_bytes * _SHARE, machine.l2_bytes * _SHARE
    if plan.order == "panel":
        # The pixels are read once for each panel; the panel stays in the first level meanwhile.
        reads = panels * between
        first = weights + (reads if between + panel > l1 else between)
        if plan.tile.vectors % 4:
            # Two panels write parts of one cache line, one image pixel after the other: more ways of a set are taken.
            l2 *= _SHARE
        again = (panels - 1) * between if between + panel + output / panels > l2 else 0.0
    else:
        reads = tiles * weights
        first = between + (reads if weights + tile > l1 else weights)
        again = (tiles - 1) * weights if weights + 2 * tile > l2 else 0.0
    if tile + panel > l1:
        first += reads
    window = 0 if plan.split else _window(form, plan)
    streamed = (rounds - 1) * weights if weights + window + between + output > l2 else 0.0
    once = _passing_through(form, machine, plan, image, weights)
    return rounds * first * _L1_MISS / _LINE, (rounds * again + streamed + once) * _L2_MISS / _LINE


def _window(form: Form, plan: _Plan) -> int:
    """Bytes of the input that a block reads."""
    stage, sizes = form.depthwise, (form.height, form.width)
    rows, columns = (
        min(size, (extent - 1) * stride + (taps - 1) * dilation + 1)
        for size, extent, stride, taps, dilation in zip(
            sizes, (plan.rows, plan.columns), stage.strides, stage.kernel_size, stage.dilation_rate, strict=True
        )
    )
    return rows * columns * form.channels * 4


def _passing_through(form: Form, machine: Machine, plan: _Plan, image: float, weights: float) -> float:
    """Bytes that the second level misses however the product walks: input and output where it does not hold all that a
    call touches, and the depthwise result of a split layer, as far as it has left before it is read.
    """
    l2 = machine.l2_bytes * _SHARE
    read = form.height * form.width * form.channels * 4
    written = form.out_height * form.out_width * form.out_channels * 4
    touched = read + weights + written + (written if form.channels_first_out else 0)
    missed = touched if touched + image > l2 else 0.0
    # A transposed copy is read again after as much as lies between, for its first pixel and for its last.
    amid = read + written + weights + image
    if form.channels_first_in:
        missed += read * _beyond(l2, 2 * read, amid)
    if form.channels_first_out:
        missed += written * _beyond(l2, amid, 2 * written)
    if plan.split:
        # In panel order the first group is read before other weights than its first panel's have passed.
        before = 1 / plan.groups if plan.order == "panel" else 0.0
        gone = before * _beyond(l2, read + image, image)
        gone += (1 - before) * _beyond(l2, read + image + weights, image + written + weights)
        missed += image * (gone + (missed > 0))
    return missed


def _beyond(l2: float, first: float, last: float) -> float:
    """Which share of reads a cache of ``l2`` bytes misses, where the bytes touched since the store of what is read go
    from ``first`` to ``last``."""
    if min(first, last) > l2:
        return 1.0
    return max(0.0, max(first, last) - l2) / max(1.0, abs(first - last))
