"""Chooses a schedule for microcontrollers: scalar arithmetic, and as little RAM as the layer allows.

Depthwise and pointwise are always one kernel whose scratch is one row of the depthwise result; nothing is staged and no
whole image is kept, so that RAM is the input, the output and that row. Code stays within a few KB: what is unrolled is
bounded.
"""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.schedule.blocks import column_tile, even_tile, window
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine

# Multiply-adds in one unrolled body of the depthwise stage: about 1.5 KB of code.
MOST_UNROLLED = 160
# Columns of a 1-D layer that are one block: the row would be the whole image.
MOST_COLUMNS = 24
LONG_KERNEL = 8


def choose(form: Form, machine: Machine) -> Schedule:
    """The record for ``form``, always one that ``check_record`` accepts."""
    kh, kw = form.depthwise.kernel_size
    taps = kw if kw < LONG_KERNEL else window(kw)
    columns = form.out_width if form.out_height > 1 else even_tile(form.out_width, MOST_COLUMNS)
    # Neighbouring outputs of a dilated kernel share no input: wider tiles only repeat the tests of bounds.
    most = 2 if form.depthwise.dilation_rate[1] > 1 else 6
    tile_columns = column_tile(columns, max(1, min(most, MOST_UNROLLED // taps)), staged=False)
    pixels, filters = _register_tile(form, machine, columns) if form.pointwise else (1, 1)
    record = Schedule(
        lanes=1,
        depthwise_lanes=1,
        rows=1,
        columns=columns,
        tile_rows=1,
        tile_columns=tile_columns,
        tap_unroll=taps,
        unroll_rows=kh * taps * tile_columns <= MOST_UNROLLED,
        staged=False,
        tile_pixels=pixels,
        tile_vectors=filters,
    )
    check_record(record, form, machine)
    return record


def _register_tile(form: Form, machine: Machine, pixels: int) -> tuple[int, int]:
    """Pixels and filters of the pointwise tile with the fewest cycles for a block of ``pixels``."""
    most = machine.tile_registers - 1
    shapes = [
        (height, width)
        for width in range(1, min(8, form.out_channels) + 1)
        for height in range(1, min(pixels, (most - width) // width) + 1)
    ]

    def cycles(shape: tuple[int, int]) -> tuple[int, int]:
        height, width = shape
        # Per input channel: multiply-adds, a load for each pixel and each weight, and the loop. A tile that does not
        # divide computes what its neighbour does a second time.
        body = height * width + height + width + 4
        return -(-pixels // height) * -(-form.out_channels // width) * body, height * width

    return min(shapes, key=cycles)
