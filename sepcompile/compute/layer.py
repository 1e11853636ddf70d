"""The geometry of a layer's kernels: how a form's extents are cut by a schedule's tiles, and where each element lies.

Notation: H, W, C input; OH, OW depthwise output; CD = C * depth_multiplier channels between the stages; F filters.
A *block* is ``rows`` x ``columns`` output pixels, Q in all. ``D`` holds the depthwise result of a block as
[CD / lanes][Q][lanes]: the depthwise stage stores whole vectors, and the pointwise stage reads consecutive pixels of
one channel at constant displacements.

Every tile that does not divide its extent overlaps its neighbour (``compute.views``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.compute.views import View, clamp

Expr = Any


@dataclass(frozen=True)
class Layer:
    """The geometry that a form and a schedule give together."""

    form: Form
    record: Schedule

    def __post_init__(self) -> None:
        if self.form.out_height > 1 and self.record.columns != self.form.out_width:
            raise ValueError("only an output of one row is blocked along its columns")

    @property
    def pixels(self) -> int:
        """Q, the pixels of a block."""
        return self.record.rows * self.record.columns

    @property
    def by_columns(self) -> bool:
        """Whether blocks cut the columns of a single row rather than the rows."""
        return self.form.out_height == 1

    @property
    def by_channel(self) -> bool:
        """Whether the depthwise stage walks channels in its outer loop, pixels inside."""
        return self.record.staged or self.record.depthwise_order == "channel"

    @property
    def depthwise_tasks(self) -> int:
        """Tasks of a split layer's depthwise kernel."""
        return self.channel_blocks if self.by_channel else self.row_tiles

    @property
    def blocks(self) -> int:
        """How many blocks cover the image."""
        if self.by_columns:
            return -(-self.form.out_width // self.record.columns)
        return -(-self.form.out_height // self.record.rows)

    @property
    def next_input(self) -> tuple[int, int, int]:
        """(step, first, total) of ``kernel.Ahead``: the input rows, or columns of a single row, new to each block."""
        f, axis = self.form, 1 if self.by_columns else 0
        kernel, stride = f.depthwise.kernel_size[axis], f.depthwise.strides[axis]
        reach = (kernel - 1) * f.depthwise.dilation_rate[axis] + 1
        size, line = (f.width, f.channels) if self.by_columns else (f.height, f.width * f.channels)
        step = min(size, (self.record.columns if self.by_columns else self.record.rows) * stride)
        # The rows before ``first`` were read for the block before.
        return step * line, (max(0, reach - stride) - f.pad_before[axis]) * line, size * line

    @property
    def channel_blocks(self) -> int:
        """Vectors that cover the depthwise channels."""
        return -(-self.form.depthwise_channels // self.record.depthwise_lanes)

    @property
    def row_tiles(self) -> int:
        """Depthwise register tiles along a block's rows."""
        return -(-self.record.rows // self.record.tile_rows)

    @property
    def column_tiles(self) -> int:
        """Depthwise register tiles along a block's columns."""
        return -(-self.record.columns // self.record.tile_columns)

    @property
    def pixel_tiles(self) -> int:
        """Pointwise register tiles along a block's pixels."""
        return -(-self.pixels // self.record.tile_pixels)

    @property
    def panels(self) -> int:
        """Weight panels of ``tile_vectors`` vectors that cover the filters."""
        return -(-self.form.out_channels // (self.record.lanes * self.record.tile_vectors))

    @property
    def tile_shape(self) -> tuple[int, int, int, int, int, int, int]:
        """(block, channel block, row tile, column tile, row, column, lane): the loops of the depthwise stage."""
        r = self.record
        inner = (r.tile_rows, r.tile_columns, r.depthwise_lanes)
        return (self.blocks, self.channel_blocks, self.row_tiles, self.column_tiles, *inner)

    @property
    def panel_shape(self) -> tuple[int, int, int, int, int, int]:
        """(block, panel, pixel tile, pixel, vector, lane): the loops of the pointwise stage."""
        r = self.record
        return (self.blocks, self.panels, self.pixel_tiles, r.tile_pixels, r.tile_vectors, r.lanes)

    def row(self, block: Expr) -> Expr:
        """First output row of a block."""
        return 0 if self.by_columns else clamp(block, self.record.rows, self.form.out_height)

    def column(self, block: Expr) -> Expr:
        """First output column of a block."""
        return clamp(block, self.record.columns, self.form.out_width) if self.by_columns else 0

    def tile_row(self, tile: Expr) -> Expr:
        """First row of a depthwise tile within its block."""
        return clamp(tile, self.record.tile_rows, self.record.rows)

    def tile_column(self, tile: Expr) -> Expr:
        """First column of a depthwise tile within its block."""
        return clamp(tile, self.record.tile_columns, self.record.columns)

    def channel(self, block: Expr, lane: Expr) -> Expr:
        """Depthwise output channel of a lane."""
        return clamp(block, self.record.depthwise_lanes, self.form.depthwise_channels) + lane

    def input_channel(self, block: Expr, lane: Expr) -> Expr:
        """Input channel that a lane's depthwise output channel reads."""
        multiplier, lanes = self.form.depthwise.depth_multiplier, self.record.depthwise_lanes
        if multiplier == 1:
            return self.channel(block, lane)
        if lanes % multiplier == 0:
            # Vectors start at multiples of the multiplier, so that each lane's offset is a constant.
            return self.channel(block, 0) // multiplier + lane // multiplier
        return self.channel(block, lane) // multiplier

    def filter(self, panel: Expr, vector: Expr, lane: Expr) -> Expr:
        """Filter of a lane; the vectors that a last panel has too many compute the last filters again."""
        lanes, filters = self.record.lanes, self.form.out_channels
        first = (panel * self.record.tile_vectors + vector) * lanes
        if self.panels * self.record.tile_vectors * lanes == filters:
            return first + lane
        from tvm import tirx

        return tirx.min(first, filters - lanes) + lane

    def pixel(self, tile: Expr) -> Expr:
        """First pixel of a pointwise tile within its block."""
        return clamp(tile, self.record.tile_pixels, self.pixels)

    @cached_property
    def scratch_view(self) -> View:
        """``D`` in memory, [channel block][Q + 1][lanes], or [channel][Q] where a vector is one lane.

        When the channels do not divide, the last vector is stored so that its new channels land at the start of the
        last channel block. The lanes before them fall on the upper, unread lanes of the pixel before, or for pixel 0
        on the spare pixel that ends the channel block before.
        """
        lanes, blocks = self.record.depthwise_lanes, self.channel_blocks
        tail = self.form.depthwise_channels % lanes
        stride = self.scratch_stride

        def store(index: Sequence[Expr]) -> Expr:
            from tvm import tirx

            _, block, row_tile, column_tile, row, column, lane = index
            pixel = (self.tile_row(row_tile) + row) * self.record.columns + self.tile_column(column_tile) + column
            flat = (block * stride + pixel) * lanes + lane
            return flat - tirx.Select(block == blocks - 1, lanes - tail, 0) if tail else flat

        def load(index: Sequence[Expr]) -> Expr:
            return (index[1] * stride + self._decode(index)) * lanes + index[6]

        return View(blocks * stride * lanes, store, load, lanes)

    @cached_property
    def scratch_by_pixel(self) -> View:
        """``scratch_view`` as (block, channel block, pixel, lane), for a kernel that only reads it."""
        lanes, stride = self.record.depthwise_lanes, self.scratch_stride

        def load(index: Sequence[Expr]) -> Expr:
            return (index[1] * stride + index[2]) * lanes + index[3]

        return View(self.channel_blocks * stride * lanes, load, load, lanes)

    @property
    def scratch_stride(self) -> int:
        """Pixels of a channel block of ``D``; the spare one is for lanes that single channels do not have."""
        return self.pixels + (self.record.depthwise_lanes > 1)

    def encode(self, pixel: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """A block's pixel as indices (row tile, column tile, row, column) of ``D``, for loads only.

        Not where the pixel was computed (the last tile overlaps), but numbers that ``_decode`` turns back into it. They
        reach every tile, so that TVM, which computes just the tiles that are read, computes all of them.
        """
        row, column = pixel // self.record.columns, pixel % self.record.columns
        tr, tc = self.record.tile_rows, self.record.tile_columns
        return row // tr, column // tc, row % tr, column % tc

    def _decode(self, index: Sequence[Expr]) -> Expr:
        _, _, a, b, c, d, _ = index
        return (a * self.record.tile_rows + c) * self.record.columns + b * self.record.tile_columns + d

    @property
    def reads_channels_first(self) -> bool:
        """Whether the kernel reads a channels_first input as it is: without vectors a transposed copy gains nothing."""
        return self.form.channels_first_in and self.record.depthwise_lanes == 1

    @property
    def writes_channels_first(self) -> bool:
        """Whether the kernel stores a channels_first output as it is; see ``reads_channels_first``."""
        lanes = self.record.lanes if self.form.pointwise else self.record.depthwise_lanes
        return self.form.channels_first_out and self.form.rowwise is None and lanes == 1

    def _output(self, pixel: Expr, channel: Expr) -> Expr:
        """Where an element of the output image lies."""
        f = self.form
        if self.writes_channels_first:
            return channel * (f.out_height * f.out_width) + pixel
        return pixel * f.out_channels + channel

    def image_pixel(self, block: Expr, pixel: Expr) -> Expr:
        """A block's pixel as a pixel of the image."""
        return self.row(block) * self.form.out_width + self.column(block) + pixel

    @cached_property
    def pointwise_output_view(self) -> View:
        """The output image of a pointwise stage, [OH * OW][F] (or [F][OH * OW])."""
        f = self.form

        def store(index: Sequence[Expr]) -> Expr:
            block, panel, tile, pixel, vector, lane = index
            where = self.image_pixel(block, self.pixel(tile) + pixel)
            return self._output(where, self.filter(panel, vector, lane))

        return View(f.out_height * f.out_width * f.out_channels, store, store)

    @cached_property
    def depthwise_output_view(self) -> View:
        """The output image of a depthwise layer, [OH * OW][CD] (or [CD][OH * OW])."""
        f = self.form

        def store(index: Sequence[Expr]) -> Expr:
            block, channel, row_tile, column_tile, row, column, lane = index
            y = self.row(block) + self.tile_row(row_tile) + row
            x = self.column(block) + self.tile_column(column_tile) + column
            return self._output(y * f.out_width + x, self.channel(channel, lane))

        return View(f.out_height * f.out_width * f.out_channels, store, store)
