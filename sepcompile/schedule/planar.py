"""Chooses a planar schedule for a channels_first layer, where a simple model says that it beats transposing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sepcompile.compute.form import Form
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.compute.record import Schedule
from sepcompile.schedule.blocks import even_tile, window
from sepcompile.schedule.planar_cost import planar_cycles, tile_cycles, transposed_cycles
from sepcompile.schedule.planar_limits import check_planar, takes
from sepcompile.targets import Machine

# The model must promise this much, since it is a model. It is less exact for SSE; and for layers of a few microseconds
# what it leaves out shows: with AVX2, layers of 16 to 24 channels that it called 20 % faster were up to 9 % slower.
GAIN = 0.97
SSE_GAIN = 0.9
SMALL_GAIN = 0.7
SMALL_MACS = 500_000
SMALL_CYCLES = 40_000.0
# Kernels of more taps than this, or of more columns, keep a loop over their rows or windows.
MOST_UNROLLED_TAPS = 25
LONG_KERNEL = 8


def choose(form: Form, machine: Machine, transposed: Schedule) -> PlanarSchedule | None:
    """The planar record, or None where the layer is better off transposed or planar kernels do not cover it."""
    if not takes(form):
        return None
    record = best(form, machine)
    usual = transposed_cycles(transposed, form, machine)
    small = usual < SMALL_CYCLES or (form.pointwise is not None and form.macs < SMALL_MACS)
    gain = SMALL_GAIN if small else SSE_GAIN if machine.vector_bits == 128 else GAIN
    return record if planar_cycles(record, form, machine) <= gain * usual else None


def best(form: Form, machine: Machine) -> PlanarSchedule:
    """The best planar record of a layer that planar kernels cover, always one that ``check_planar`` accepts."""
    record = min(_candidates(form, machine), key=lambda record: planar_cycles(record, form, machine))
    check_planar(record, form, machine)
    return record


def _candidates(form: Form, machine: Machine) -> Iterator[PlanarSchedule]:
    """Whole images in two kernels, and blocks of rows in one."""
    sizes = {even_tile(form.out_height, size) for size in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, form.out_height)}
    for rows in sorted(sizes):
        base = _depthwise(form, machine, rows)
        if form.pointwise is None:
            staged = PlanarLayer(form, base).staged_view.size * 4
            if rows == 1 or staged <= machine.l1_bytes:
                yield base
            continue
        yield _with_tile(base, form, machine)
        if rows == form.out_height:
            tiled = _with_tile(replace(base, split=True), form, machine)
            # The outer loop's steps are the tasks.
            yield tiled
            yield replace(tiled, order="panel")


def _depthwise(form: Form, machine: Machine, rows: int) -> PlanarSchedule:
    """A record with the depthwise knobs set."""
    (kh, kw), width = form.depthwise.kernel_size, form.out_width
    lanes = machine.float_lanes
    # A vector may run over the end of a row only where that is scratch.
    while lanes > width and (form.pointwise is None or lanes // 2 >= width):
        lanes //= 2
    accumulators = 8  # as many sums as hide the latency of two ports
    last = form.middle if form.pointwise is not None else form.final
    if not last.is_light:
        accumulators //= 2
    # Rows of a tile share the input, which 16 registers do not hold for more than two of them beside the sums.
    tile_rows = even_tile(rows, min(4 if machine.vector_registers >= 32 else 2, accumulators))
    return PlanarSchedule(
        lanes=machine.float_lanes,
        depthwise_lanes=lanes,
        rows=rows,
        tile_rows=tile_rows,
        tile_columns=even_tile(-(-width // lanes), max(1, accumulators // tile_rows)),
        tap_unroll=kw if kw < LONG_KERNEL else window(kw),
        unroll_rows=kh * kw <= MOST_UNROLLED_TAPS,
        k_unroll=4,
    )


def _with_tile(base: PlanarSchedule, form: Form, machine: Machine) -> PlanarSchedule:
    """The record with the pointwise register tile of the fewest cycles."""
    pixels, lanes = base.rows * form.out_width, base.lanes
    while lanes > pixels:
        lanes //= 2
    most = machine.tile_registers - 1

    def tiles() -> Iterator[PlanarSchedule]:
        for vectors in range(1, min(6, pixels // lanes) + 1):
            for filters in range(1, min(form.out_channels, (most - vectors) // vectors) + 1):
                yield replace(base, lanes=lanes, tile_filters=filters, tile_vectors=vectors)

    def cost(record: PlanarSchedule) -> tuple[float, int]:
        layer = PlanarLayer(form, record)
        filters, vectors = record.tile_filters, record.tile_vectors
        streamed = form.channels * vectors * lanes * 4 > machine.l1_bytes
        cycles = tile_cycles(machine, form.channels, filters, vectors, streamed=streamed)
        return layer.panels * layer.pixel_tiles * cycles, -filters * vectors

    return min(tiles(), key=cost)
