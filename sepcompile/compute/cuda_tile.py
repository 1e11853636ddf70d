"""The geometry of a layer's CUDA kernels: which pixel and channel each element of a tile is, and where it lies.

Stages are declared over (block, pixel, channel): every extent divides, the channels and filters are padded to whole
tiles, and what lies outside the tensor is guarded where memory is read or written. Rows are counted through the whole
batch: row ``q`` is row ``q % OH`` of image ``q // OH``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sepcompile.compute.cuda_record import CudaSchedule, padded_channels, padded_filters
from sepcompile.compute.form import Form

Expr = Any
ANY_LENGTH = 2**31 - 1
"""The declared length of a batched tensor: indices are int32, and its true length is not known when compiling."""


@dataclass(frozen=True)
class GuardedView:
    """Where an output element lies in memory, and whether it exists (None: always)."""

    store: Callable[[Sequence[Expr]], Expr]
    inside: Callable[[Sequence[Expr]], Expr | None]


@dataclass(frozen=True)
class Grid:
    """Blocks of a kernel as a function of the batch: ``ceil(batch * unit / tile) * times`` along x, ``y`` along y.

    The kernel's scalar ``rows`` is ``batch * unit``.
    """

    unit: int
    tile: int
    times: int
    y: int


@dataclass(frozen=True)
class Where:
    """A pixel of the output: its image, row and column, and whether it exists."""

    image: Expr
    row: Expr
    column: Expr
    inside: Expr


@dataclass(frozen=True)
class Tile:
    """The geometry that a form and a record give together. ``flat`` tiles the pixels of the batch in one line."""

    form: Form
    record: CudaSchedule
    rows: Any
    flat: bool = False

    @property
    def pixels(self) -> int:
        """Output pixels of one block."""
        return self.record.tile_pixels_b if self.flat else self.record.tile_rows * self.record.tile_columns

    @property
    def column_tiles(self) -> int:
        """Blocks along a row."""
        return -(-self.form.out_width // self.record.tile_columns)

    @property
    def channels(self) -> int:
        """Depthwise channels, padded."""
        return padded_channels(self.form, self.record)

    @property
    def filters(self) -> int:
        """Filters, padded to whole blocks."""
        return padded_filters(self.form, self.record)

    @property
    def grid_rows(self) -> tuple[int, int, int]:
        """``unit``, ``tile`` and ``times`` of the grid."""
        if self.flat:
            return self.form.out_height * self.form.out_width, self.pixels, 1
        return self.form.out_height, self.record.tile_rows, self.column_tiles

    def where(self, block: Expr, pixel: Expr) -> Where:
        """Pixel ``pixel`` of block ``block``."""
        height, width = self.form.out_height, self.form.out_width
        if self.flat:
            m = block * self.pixels + pixel
            return Where(m // (height * width), m // width % height, m % width, m < self.rows)
        columns = self.record.tile_columns
        q = block // self.column_tiles * self.record.tile_rows + pixel // columns
        x = block % self.column_tiles * columns + pixel % columns
        inside = q < self.rows
        if self.form.out_width % columns:
            inside = tirx.all(inside, x < width)
        return Where(q // height, q % height, x, inside)

    def output_view(self, first: bool, channels: int, computed: int) -> GuardedView:
        """The result of a kernel, (block, pixel, channel), as an image of ``channels``.

        ``first`` for channels_first; of the ``computed`` channels those beyond ``channels`` do not exist.
        """
        f = self.form

        def store(index: Sequence[Expr]) -> Expr:
            block, pixel, c = index
            at = self.where(block, pixel)
            if first:
                plane = f.out_height * f.out_width
                return (at.image * channels + c) * plane + at.row * f.out_width + at.column
            return ((at.image * f.out_height + at.row) * f.out_width + at.column) * channels + c

        def inside(index: Sequence[Expr]) -> Expr:
            block, pixel, c = index
            condition = self.where(block, pixel).inside
            return condition if channels >= computed else tirx.all(condition, c < channels)

        return GuardedView(store, inside)

    def input_index(self, image: Expr, row: Expr, column: Expr, channel: Expr) -> Expr:
        """Flat element of the layer's input."""
        f = self.form
        if f.channels_first_in:
            return ((image * f.channels + channel) * f.height + row) * f.width + column
        return ((image * f.height + row) * f.width + column) * f.channels + channel
