"""Chooses a schedule for Arm CPUs with NEON from the machine model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sepcompile.compute.form import Form, is_light
from sepcompile.compute.record import Schedule
from sepcompile.schedule.blocks import column_tile, even_tile, lanes_of, window
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine

SMALL_MACS = 2_000_000
LONG_KERNEL = 8


def choose(form: Form, machine: Machine) -> Schedule:
    """The heuristic's record for ``form``, always one that ``check_record`` accepts."""
    record = _depthwise_layer(form, machine) if form.pointwise is None else _separable_layer(form, machine)
    check_record(record, form, machine)
    return record


def _separable_layer(form: Form, machine: Machine) -> Schedule:
    split = _splits(form, machine)
    depthwise = _depthwise_tile(form, machine)
    rows, columns = min(_blocks(form, machine, split), key=lambda block: _block_cost(form, machine, block, split))
    tile = _register_tile(form, machine, rows * columns)
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
        tile_pixels=tile.pixels,
        tile_vectors=tile.vectors,
        k_unroll=4,
        order="panel" if split else "pixel",
        split=split,
    )


def _depthwise_layer(form: Form, machine: Machine) -> Schedule:
    kh, kw = form.depthwise.kernel_size
    tile = _depthwise_tile(form, machine)
    rows, columns = _depthwise_block(form, machine)
    tile_rows = min(2, rows) if kh > 1 and max(kh, kw) <= 5 and not tile.staged else 1
    width = 4 if tile_rows > 1 else tile.columns
    if not is_light(form.final.activation):
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
    """Whether the depthwise result of the whole image goes to memory before the pointwise stage starts."""
    if form.macs < SMALL_MACS:
        return False
    between = form.out_height * form.out_width * form.depthwise_channels * 4
    weights = form.depthwise_channels * form.out_channels * 4
    return between <= machine.l2_bytes * 0.3 or weights > machine.l2_bytes * 0.6


@dataclass(frozen=True)
class _DepthwiseTile:
    columns: int
    taps: int
    staged: bool


def _depthwise_tile(form: Form, machine: Machine) -> _DepthwiseTile:
    kw = form.depthwise.kernel_size[1]
    staged = kw >= LONG_KERNEL or form.depthwise.depth_multiplier > 1
    columns = min(7, machine.vector_registers // 2 - 2)
    if staged or kw >= 7:
        columns = 10 if staged else max(8, machine.vector_registers // 2 - 2)
    if form.depthwise.dilation_rate[1] > 1 and not staged:
        columns = 2
    taps = kw if kw < LONG_KERNEL else window(kw)
    return _DepthwiseTile(columns, taps, staged)


def _blocks(form: Form, machine: Machine, split: bool) -> Iterator[tuple[int, int]]:
    """Candidate blocks (rows, columns)."""
    if split:
        yield form.out_height, form.out_width
    elif form.out_height == 1:
        for columns in sorted({even_tile(form.out_width, size) for size in (32, 48, 64, 80, 100, 128, 200)}):
            yield 1, columns
    else:
        for rows in sorted({even_tile(form.out_height, size) for size in range(1, 9)}):
            yield rows, form.out_width


def _block_cost(form: Form, machine: Machine, block: tuple[int, int], split: bool) -> float:
    rows, columns = block
    pixels = rows * columns
    count = 1 if split else -(-form.out_height // rows) * -(-form.out_width // columns)
    waste = count * pixels / (form.out_height * form.out_width)
    tile = _register_tile(form, machine, pixels)
    scratch = pixels * form.depthwise_channels * 4
    cache = 1.0 if scratch <= machine.l2_bytes // 4 else 1.0 + 0.2 * scratch / machine.l2_bytes
    balance = 1.0 if split else -(-count // machine.cores) * machine.cores / count
    return waste * tile.cost * cache * (0.5 + 0.5 * balance) * (1.0 + 4.0 / pixels)


@dataclass(frozen=True)
class _Tile:
    pixels: int
    vectors: int
    cost: float


def _register_tile(form: Form, machine: Machine, pixels: int) -> _Tile:
    """The pointwise register tile with the fewest cycles for one block of ``pixels``."""
    vectors = -(-form.out_channels // lanes_of(form.out_channels, machine))
    shapes = [
        (height, width)
        for width in range(1, min(6, vectors) + 1)
        for height in range(1, (machine.tile_registers - 1 - width) // width + 1)
        if height <= pixels
    ]
    tiles = [_tile(machine, pixels, vectors, *shape) for shape in shapes]
    return min(tiles, key=lambda tile: (tile.cost, -tile.pixels * tile.vectors))


def _tile(machine: Machine, pixels: int, vectors: int, height: int, width: int) -> _Tile:
    fma = height * width / machine.fma_ports
    loads = (height + width) / machine.load_ports / 2
    cycles = max(fma, loads, 2.0 * width, machine.fma_latency + 1) + 0.2
    count = -(-pixels // height) * -(-vectors // width)
    return _Tile(height, width, count * cycles / (pixels * vectors))


def _depthwise_block(form: Form, machine: Machine) -> tuple[int, int]:
    if form.out_height == 1:
        return 1, even_tile(form.out_width, max(32, -(-form.out_width // (4 * machine.cores))))
    most = max(2, form.out_height // (2 * machine.cores))
    even = [rows for rows in range(2, most + 1, 2) if form.out_height % rows == 0]
    return min(form.out_height, max(even, default=most + most % 2)), form.out_width
