"""Chooses a schedule for x86 CPUs from the machine model: SSE, AVX2 and AVX-512 differ only in its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.schedule.blocks import LONG_KERNEL, column_tile, depthwise_block, even_tile, lanes_of, repeats_lanes
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine

# A fused multiply-add's result can be used four cycles later on every x86 core since Skylake and Zen.
FMA_LATENCY = 4
# Below this a layer takes a few microseconds, and a second join of threads shows.
SMALL_MACS = 3_000_000
# What the sums of a register tile cost beside the multiply-adds, but for those that are stored while the next tile
# starts. Fitted on Zen 5 over layers of 16 to 192 channels: 7x2 tiles beat 14x2 by 7 % at 16 and lose from 64 on.
HIDDEN_SUMS = 14
SUM_CYCLES = 0.8


def choose(form: Form, machine: Machine) -> Schedule:
    """The heuristic's record for ``form``, always one that ``check_record`` accepts."""
    record = _depthwise_layer(form, machine) if form.pointwise is None else _separable_layer(form, machine)
    check_record(record, form, machine)
    return record


def _separable_layer(form: Form, machine: Machine) -> Schedule:
    split = _splits(form, machine)
    depthwise = _depthwise_tile(form, machine)
    best = min(_blocks(form, machine, split), key=lambda block: _block_cost(form, machine, block, split))
    rows, columns = best
    tile = _register_tile(form, machine, rows * columns)
    panels = split and _prefers_panels(form, machine, tile)
    return Schedule(
        lanes=lanes_of(form.out_channels, machine),
        depthwise_lanes=lanes_of(form.depthwise_channels, machine),
        rows=rows,
        columns=columns,
        tile_rows=1,
        tile_columns=column_tile(columns, depthwise.columns, depthwise.staged),
        tap_unroll=depthwise.taps,
        unroll_rows=False,
        staged=depthwise.staged,
        depthwise_order="channel" if split and _walks_channels(form, machine) else "pixel",
        tile_pixels=tile.pixels,
        tile_vectors=tile.vectors,
        k_unroll=4,
        order="panel" if panels else "pixel",
        split=split,
        tile_groups=_groups(form, machine, tile) if panels else 1,
        prefetch=not split and best != (form.out_height, form.out_width) and _leaves_cache(form, machine),
    )


def _depthwise_layer(form: Form, machine: Machine) -> Schedule:
    kh, kw = form.depthwise.kernel_size
    tile = _depthwise_tile(form, machine)
    rows, columns = depthwise_block(form, machine)
    # Two rows at once read each input row for two output rows; above 5x5 the taps alone fill the registers, and where
    # lanes are repeated, their shuffles bound the time.
    pairs = kh > 1 and max(kh, kw) <= 5 and not tile.staged and form.depthwise.depth_multiplier == 1
    tile_rows = min(2, rows) if pairs else 1
    width = 4 if tile_rows > 1 else tile.columns
    if not form.final.is_light:
        # The unrolled activation needs registers beside the accumulators.
        width = min(width, machine.vector_registers // 4)
    return Schedule(
        lanes=lanes_of(form.out_channels, machine),
        depthwise_lanes=lanes_of(form.depthwise_channels, machine),
        rows=rows,
        columns=columns,
        tile_rows=tile_rows,
        tile_columns=column_tile(columns, width, tile.staged),
        tap_unroll=tile.taps,
        unroll_rows=kh * kw <= 49,
        staged=tile.staged,
    )


def _splits(form: Form, machine: Machine) -> bool:
    """Whether the depthwise result of the whole image goes to memory before the pointwise stage starts.

    It pays where that result stays in L2, and where the weights do not, so that each panel must be read once only. A
    small layer is better off with a single kernel: two mean two joins of the threads.
    """
    if form.macs < SMALL_MACS:
        return False
    between = form.out_height * form.out_width * form.depthwise_channels * 4
    weights = form.depthwise_channels * form.out_channels * 4
    return between <= machine.l2_bytes * 0.3 or weights > machine.l2_bytes * 0.6


def _prefers_panels(form: Form, machine: Machine, tile: _Tile) -> bool:
    """Whether a split layer walks weight panels in its outer loop: always where they do not stay in L2.

    Panels are also its tasks then, so there must be enough of them for every core.
    """
    panels = _panels(form, machine, tile)
    return form.depthwise_channels * form.out_channels * 4 > machine.l2_bytes * 0.6 or panels >= 4 * machine.cores


def _groups(form: Form, machine: Machine, tile: _Tile) -> int:
    """Groups of pixel tiles for which the tasks, a panel and a group each, share out among the cores."""
    panels = _panels(form, machine, tile)
    tiles = -(-form.out_height * form.out_width // tile.pixels)
    divisors = [n for n in range(1, 9) if tiles % n == 0]
    return min(divisors, key=lambda n: (max(1.02, _imbalance(n * panels, machine)), n))


def _imbalance(tasks: int, machine: Machine) -> float:
    """The tasks of the busiest core against a fair share."""
    return -(-tasks // machine.cores) * machine.cores / tasks


def _leaves_cache(form: Form, machine: Machine) -> bool:
    """Whether input and output are so large that a block's input has left L2 before it is read.

    On Zen 5 a prefetch gains 4 % with 4.6 MB of both, 36 % with 16 MB, and nothing below 3 MB, with 1 MB of L2.
    """
    return (form.height * form.width * form.channels + math.prod(form.image)) * 4 > 4 * machine.l2_bytes


def _walks_channels(form: Form, machine: Machine) -> bool:
    """Whether a split layer's depthwise kernel takes one vector of channels after the other.

    It then writes in the order of memory, but reads a line per pixel: good while input and result stay in L2, and where
    no vector of channels straddles two lines.
    """
    pixels = form.height * form.width * form.channels + form.out_height * form.out_width * form.depthwise_channels
    return pixels * 4 <= machine.l2_bytes and form.channels * 4 % (machine.vector_bits // 8) == 0


def _panels(form: Form, machine: Machine, tile: _Tile) -> int:
    return -(-form.out_channels // (lanes_of(form.out_channels, machine) * tile.vectors))


@dataclass(frozen=True)
class _DepthwiseTile:
    columns: int
    taps: int
    staged: bool


def _depthwise_tile(form: Form, machine: Machine) -> _DepthwiseTile:
    kw = form.depthwise.kernel_size[1]
    if kw >= LONG_KERNEL or not repeats_lanes(form, machine):
        # One tap after the other from the staged copy: LLVM keeps a window of several in memory rather than registers.
        return _DepthwiseTile(10 if machine.vector_registers >= 32 else 8, taps=1, staged=True)
    # Accumulators enough to hide the latency of two FMA ports.
    columns = min(7, machine.vector_registers // 2 - 2)
    if kw >= 7:
        columns = max(8, machine.vector_registers // 2 - 2)
    if form.depthwise.dilation_rate[1] > 1:
        # Neighbouring outputs share no input, and each tap's bounds are tested for each output of the tile.
        columns = 2
    return _DepthwiseTile(columns, taps=kw, staged=False)


def _blocks(form: Form, machine: Machine, split: bool) -> Iterator[tuple[int, int]]:
    """Candidate blocks (rows, columns)."""
    if split:
        yield form.out_height, form.out_width
    elif form.out_height == 1:
        for columns in {even_tile(form.out_width, size) for size in (32, 48, 64, 80, 100, 128, 200)}:
            yield 1, columns
    else:
        shares = {-(-form.out_height // (machine.cores * n)) for n in (1, 2)}
        for rows in sorted({even_tile(form.out_height, size) for size in range(1, 9)} | shares):
            yield rows, form.out_width


def _block_cost(form: Form, machine: Machine, block: tuple[int, int], split: bool) -> float:
    """Relative cost of a block size: overlapped pixels, register-tile waste, scratch out of cache, too few tasks."""
    rows, columns = block
    pixels = rows * columns
    count = 1 if split else -(-form.out_height // rows) * -(-form.out_width // columns)
    waste = count * pixels / (form.out_height * form.out_width)
    tile = _register_tile(form, machine, pixels)
    scratch = pixels * form.depthwise_channels * 4
    cache = 1.0 if scratch <= machine.l2_bytes // 8 else 1.0 + 0.1 * scratch / machine.l2_bytes
    # Too few tasks leave threads idle; too small blocks pay the loops' start-up more often.
    balance = 1.0 if split else _imbalance(count, machine)
    small = 1.0 + 4.0 / pixels
    return waste * tile.cost * cache * (0.5 + 0.5 * balance) * small


@dataclass(frozen=True)
class _Tile:
    pixels: int
    vectors: int
    cost: float


def _register_tile(form: Form, machine: Machine, pixels: int) -> _Tile:
    """The pointwise register tile with the fewest cycles for one block of ``pixels``, by a model of the core."""
    lanes = lanes_of(form.out_channels, machine)
    vectors = -(-form.out_channels // lanes)
    shapes = [(height, width) for width in range(1, min(6, vectors) + 1) for height in _heights(machine, width)]
    depth = form.depthwise_channels
    tiles = [_tile(machine, depth, pixels, vectors, *shape) for shape in shapes if shape[0] <= pixels]
    return min(tiles, key=lambda tile: (tile.cost, -tile.pixels * tile.vectors))


def _heights(machine: Machine, vectors: int) -> range:
    return range(1, (machine.tile_registers - 1 - vectors) // vectors + 1)


def _tile(machine: Machine, depth: int, pixels: int, vectors: int, height: int, width: int) -> _Tile:
    """Cycles per input channel: multiply-adds against the FMA ports, loads against two load ports, and the latency.

    The ``depth`` input channels share the cost of the tile's end, where the next tile's start waits for its sums.
    """
    fma = height * width / machine.fma_ports
    # SSE has no load that broadcasts: a load and a shuffle.
    loads = (height * (2 if machine.vector_bits == 128 else 1) + width) / 2
    # The weight vectors stream from L2 at about half a vector a cycle.
    stream = 2.0 * width
    # One accumulator more per port than the latency needs, or every delay of a load stalls the multipliers.
    cycles = max(fma, loads, stream, FMA_LATENCY + 1) + 0.2
    cycles += max(0, height * width - HIDDEN_SUMS) * SUM_CYCLES / depth
    count = -(-pixels // height) * -(-vectors // width)
    return _Tile(height, width, count * cycles / (pixels * vectors))
