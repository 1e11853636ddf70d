"""The geometry of planar kernels: a channels_first layer whose vectors run along pixels.

Notation as in ``compute.layer``; a block is ``rows`` whole output rows, Q pixels. Scratch holds

- ``P``: one channel's input rows, zero-padded: [row][phase][columns]. Padded column x * stride + phase lies at x of its
  phase, so that the inputs of neighbouring outputs are neighbours whatever the stride.
- ``D``: the depthwise result of a block, [channel][Q and slack].

Vectors that do not divide a row overlap or run over its end. What runs over is written again by whatever comes next in
memory, which is always computed later, or falls on slack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.compute.views import View, clamp

Expr = Any

LINE = 16  # float32 elements of a cache line
MOST_COPY_LANES = 16


@dataclass(frozen=True)
class PlanarLayer:
    """The geometry that a form and a planar schedule give together."""

    form: Form
    record: PlanarSchedule

    @property
    def pixels(self) -> int:
        """Q, the pixels of a block."""
        return self.record.rows * self.form.out_width

    @property
    def image_pixels(self) -> int:
        """Pixels of the output."""
        return self.form.out_height * self.form.out_width

    @property
    def blocks(self) -> int:
        """How many blocks cover the image."""
        return -(-self.form.out_height // self.record.rows)

    @property
    def row_tiles(self) -> int:
        """Depthwise register tiles along a block's rows."""
        return -(-self.record.rows // self.record.tile_rows)

    @property
    def column_tiles(self) -> int:
        """Depthwise register tiles along a row."""
        return -(-self.form.out_width // (self.record.depthwise_lanes * self.record.tile_columns))

    @property
    def pixel_tiles(self) -> int:
        """Pointwise register tiles along a block's pixels."""
        return -(-self.pixels // (self.record.lanes * self.record.tile_vectors))

    @property
    def panels(self) -> int:
        """Weight panels of ``tile_filters`` that cover the filters."""
        return -(-self.form.out_channels // self.record.tile_filters)

    @property
    def tile_shape(self) -> tuple[int, int, int, int, int, int, int]:
        """(block, channel, row tile, column tile, row, vector, lane): the loops of the depthwise stage."""
        r = self.record
        inner = (r.tile_rows, r.tile_columns, r.depthwise_lanes)
        return (self.blocks, self.form.channels, self.row_tiles, self.column_tiles, *inner)

    @property
    def panel_shape(self) -> tuple[int, int, int, int, int, int]:
        """(block, panel, pixel tile, filter, vector, lane): the loops of the pointwise stage."""
        r = self.record
        return (self.blocks, self.panels, self.pixel_tiles, r.tile_filters, r.tile_vectors, r.lanes)

    def row(self, block: Expr) -> Expr:
        """First output row of a block."""
        return clamp(block, self.record.rows, self.form.out_height)

    def tile_row(self, tile: Expr) -> Expr:
        """First row of a depthwise tile within its block."""
        return clamp(tile, self.record.tile_rows, self.record.rows)

    def column(self, tile: Expr, vector: Expr) -> Expr:
        """First column of a vector of the depthwise stage; the vectors that a row has too many repeat its last."""
        lanes, width = self.record.depthwise_lanes, self.form.out_width
        if lanes >= width:
            return 0
        first = (tile * self.record.tile_columns + vector) * lanes
        if self.column_tiles * self.record.tile_columns * lanes == width:
            return first
        from tvm import tirx

        return tirx.min(first, width - lanes)

    def filter(self, panel: Expr, number: Expr) -> Expr:
        """Filter of a register tile's row."""
        return clamp(panel, self.record.tile_filters, self.form.out_channels) + number

    def pixel(self, tile: Expr, vector: Expr, lane: Expr) -> Expr:
        """A pixel of the pointwise stage within its block."""
        r = self.record
        return clamp(tile, r.lanes * r.tile_vectors, self.pixels) + vector * r.lanes + lane

    @cached_property
    def phases(self) -> int:
        """Column phases that some tap reads."""
        kernel, stride, dilation = (v[1] for v in self._windows)
        return max(tap * dilation % stride for tap in range(kernel)) + 1

    @property
    def phase_columns(self) -> int:
        """Columns of one phase that a row of the depthwise stage reads."""
        kernel, stride, dilation = (v[1] for v in self._windows)
        return self.form.out_width + (kernel - 1) * dilation // stride

    @property
    def staged_rows(self) -> int:
        """Input rows of a block."""
        kernel, stride, dilation = (v[0] for v in self._windows)
        return (self.record.rows - 1) * stride + (kernel - 1) * dilation + 1

    @property
    def _windows(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        d = self.form.depthwise
        return d.kernel_size, d.strides, d.dilation_rate

    @cached_property
    def interior(self) -> tuple[tuple[int, int], ...]:
        """Of each phase, the first column that lies inside the image, and how many do."""
        stride, pad = self.form.depthwise.strides[1], self.form.pad_before[1]
        found = []
        for phase in range(self.phases):
            first = max(0, -(-(pad - phase) // stride))
            last = min(self.phase_columns - 1, (self.form.width - 1 + pad - phase) // stride)
            found.append((first, last - first + 1))
        return tuple(found)

    @cached_property
    def copy_lanes(self) -> int:
        """Lanes that the input is copied by: no more than the shortest phase has columns."""
        least = min(count for _, count in self.interior)
        lanes = self.record.depthwise_lanes if self.form.pointwise is None else MOST_COPY_LANES
        lanes = min(lanes, MOST_COPY_LANES)
        while lanes > max(1, least):
            lanes //= 2
        return lanes

    @cached_property
    def margins(self) -> tuple[int, int]:
        """Vectors of zeros before and after the image's columns."""
        before = max(first for first, _ in self.interior)
        after = max(self.phase_columns - first - count for first, count in self.interior)
        return -(-before // self.copy_lanes), -(-after // self.copy_lanes)

    @property
    def copies(self) -> int:
        """Vectors that cover the image's columns of a phase."""
        return -(-max(count for _, count in self.interior) // self.copy_lanes)

    @property
    def staged_shape(self) -> tuple[int, int, int, int, int, int]:
        """(block, channel, row, phase, vector, lane) of ``P``: first the zeros of a row, then its columns."""
        vectors = sum(self.margins) + self.copies
        return (self.blocks, self.form.channels, self.staged_rows, self.phases, vectors, self.copy_lanes)

    @property
    def phase_stride(self) -> int:
        """Elements from one phase to the next in ``P``: whole vectors, so that aligned rows stay aligned."""
        return _round_up(self.phase_columns, self.record.depthwise_lanes)

    def staged_column(self, phase: Expr, vector: Expr) -> Expr:
        """Column of its phase at which vector number ``vector`` of a staged row is written."""
        from tvm import tirx

        before, after = self.margins
        lanes = self.copy_lanes
        first, count = (_by_phase(phase, [pair[i] for pair in self.interior]) for i in (0, 1))
        copied = first + tirx.min((vector - before - after) * lanes, count - lanes)
        right = first + count + (vector - before) * lanes
        return tirx.Select(vector < before, vector * lanes, tirx.Select(vector < before + after, right, copied))

    @cached_property
    def staged_view(self) -> View:
        """``P`` in memory; loads give (block, channel, row, phase, 0, column)."""

        def place(row: Expr, phase: Expr, column: Expr) -> Expr:
            return (row * self.phases + phase) * self.phase_stride + column

        def store(index: Sequence[Expr]) -> Expr:
            _, _, row, phase, vector, lane = index
            return place(row, phase, self.staged_column(phase, vector) + lane)

        slack = (sum(self.margins) + 1) * self.copy_lanes + self.record.depthwise_lanes
        size = self.staged_rows * self.phases * self.phase_stride + slack
        return View(size, store, lambda index: place(index[2], index[3], index[5]))

    @property
    def scratch_stride(self) -> int:
        """Elements from one channel to the next in ``D``.

        An odd number of cache lines: the pointwise stage reads a column of channels, which must not share cache sets.
        """
        surplus = max(0, self.record.depthwise_lanes - self.form.out_width)
        lines = -(-(self.pixels + surplus) // LINE)
        return (lines + 1 - lines % 2) * LINE

    @cached_property
    def scratch_view(self) -> View:
        """``D`` in memory; loads give (block, channel, 0, 0, 0, 0, pixel)."""

        def store(index: Sequence[Expr]) -> Expr:
            _, channel, row_tile, column_tile, row, vector, lane = index
            return channel * self.scratch_stride + self._offset(row_tile, column_tile, row, vector) + lane

        size = self.form.channels * self.scratch_stride
        return View(size, store, lambda index: index[1] * self.scratch_stride + index[6])

    def _offset(self, row_tile: Expr, column_tile: Expr, row: Expr, vector: Expr) -> Expr:
        """First pixel of a depthwise vector within its block."""
        return (self.tile_row(row_tile) + row) * self.form.out_width + self.column(column_tile, vector)

    @cached_property
    def depthwise_output_view(self) -> View:
        """The output image of a depthwise layer, [C][OH * OW]."""

        def store(index: Sequence[Expr]) -> Expr:
            block, channel, row_tile, column_tile, row, vector, lane = index
            first = self.row(block) * self.form.out_width + self._offset(row_tile, column_tile, row, vector)
            return channel * self.image_pixels + first + lane

        return View(self.form.out_channels * self.image_pixels, store, store)

    @cached_property
    def pointwise_output_view(self) -> View:
        """The output image of a pointwise stage, [F][OH * OW]."""

        def store(index: Sequence[Expr]) -> Expr:
            block, panel, tile, number, vector, lane = index
            pixel = self.row(block) * self.form.out_width + self.pixel(tile, vector, lane)
            return self.filter(panel, number) * self.image_pixels + pixel

        return View(self.form.out_channels * self.image_pixels, store, store)


def _by_phase(phase: Expr, values: Sequence[int]) -> Expr:
    """The value of a phase."""
    from tvm import tirx

    chosen: Expr = values[-1]
    for number in reversed(range(len(values) - 1)):
        if values[number] != chosen:
            chosen = tirx.Select(phase == number, values[number], chosen)
    return chosen


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
