"""The kernels of a separable or depthwise layer as tensor expressions over the tiles of a schedule.

Stages, by the names that schedules know them by: ``P`` padded input, ``DA`` depthwise sums, ``D`` depthwise result,
``G`` pointwise sums, ``GC`` their copy in memory, ``O`` output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvm import te, tirx

from sepcompile.compute import activations
from sepcompile.compute.epilogue import RESIDUAL, alpha_at, epilogue
from sepcompile.compute.form import Epilogue
from sepcompile.compute.kernel import Ahead, Builder, KernelIR
from sepcompile.compute.layer import Layer

Expr = Any
Tensor = Any


class _Builder(Builder):
    """The builder of one kernel of a layer."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer


def fused_kernel(layer: Layer, source: str, target: str) -> KernelIR:
    """Depthwise and pointwise in one kernel, block by block."""
    builder = _Builder(layer)
    between, lanes = _between(builder, source), layer.record.depthwise_lanes

    def read(block: Expr, k: Expr, pixel: Expr) -> Expr:
        return between[block, tirx.floordiv(k, lanes), *layer.encode(pixel), tirx.floormod(k, lanes)]

    output = _pointwise(builder, read)
    kernel = builder.finish(output, target, {"D": layer.scratch_view, "O": layer.pointwise_output_view})
    return replace(kernel, ahead=Ahead(source, *layer.next_input)) if layer.record.prefetch else kernel


def depthwise_kernel(layer: Layer, source: str, target: str) -> KernelIR:
    """A depthwise layer."""
    builder = _Builder(layer)
    form = layer.form
    output = _finished(builder, _depthwise(builder, source), form.final, "O", form.out_dtype)
    return builder.finish(output, target, {"O": layer.depthwise_output_view})


def split_kernels(layer: Layer, source: str, between: str, target: str) -> tuple[KernelIR, KernelIR]:
    """Depthwise and pointwise as two kernels; ``between`` holds ``Layer.scratch_view``'s elements."""
    first = _Builder(layer)
    head = first.finish(_between(first, source), between, {"D": layer.scratch_view})
    second = _Builder(layer)
    # Read by pixel: TVM cannot always put together again the pixel that was taken apart into tiles.
    lanes = layer.record.depthwise_lanes
    middle = second.operand(between, (layer.blocks, layer.channel_blocks, layer.pixels, lanes))

    def read(block: Expr, k: Expr, pixel: Expr) -> Expr:
        return middle[block, tirx.floordiv(k, lanes), pixel, tirx.floormod(k, lanes)]

    views = {middle.op.name: layer.scratch_by_pixel, "O": layer.pointwise_output_view}
    return head, second.finish(_pointwise(second, read), target, views)


def _between(builder: _Builder, source: str) -> Tensor:
    """Stage ``D``: what stands between the depthwise and the pointwise stage."""
    return _finished(builder, _depthwise(builder, source), builder.layer.form.middle, "D", "float32")


def _depthwise(builder: _Builder, source: str) -> Tensor:
    """Stages ``P`` (padded input) and ``DA`` (depthwise sums), the latter over ``Layer.tile_shape``."""
    layer, form = builder.layer, builder.layer.form
    stage = form.depthwise
    (kh, kw), (sh, sw), (dh, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    padded = _padded(builder, source)
    lanes = layer.record.depthwise_lanes
    weights = builder.operand(f"w:{stage.weight}", (layer.channel_blocks, kh, kw, lanes))
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")

    def taps(b: Expr, c: Expr, rt: Expr, ct: Expr, r: Expr, x: Expr, lane: Expr) -> Expr:
        row = (layer.tile_row(rt) + r) * sh + dy * dh
        column = (layer.tile_column(ct) + x) * sw + dx * dw
        return te.sum(padded[b, c, row, column, lane] * weights[c, dy, dx, lane], [dy, dx])

    return te.compute(layer.tile_shape, taps, "DA")


def _padded(builder: _Builder, source: str) -> Tensor:
    """The input pixels that a block needs, zero outside the image, by channel vectors."""
    layer, form = builder.layer, builder.layer.form
    stage, record = form.depthwise, layer.record
    (kh, kw), (sh, sw), (dh, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    first = layer.reads_channels_first
    sizes = (form.height, form.width)
    x = builder.operand(source, (form.channels, *sizes) if first else (*sizes, form.channels), form.in_dtype)
    rows = (record.rows - 1) * sh + (kh - 1) * dh + 1
    columns = (record.columns - 1) * sw + (kw - 1) * dw + 1
    alpha = alpha_at(builder, form, form.pre)

    def value(b: Expr, c: Expr, y: Expr, xx: Expr, lane: Expr) -> Expr:
        row = layer.row(b) * sh - form.pad_before[0] + y
        column = layer.column(b) * sw - form.pad_before[1] + xx
        channel = layer.input_channel(c, lane)
        loaded = (x[channel, row, column] if first else x[row, column, channel]).astype("float32")
        if form.pre is not None:
            loaded = activations.apply(form.pre, loaded, alpha and alpha(row, column, channel))
        inside = []
        if form.pad_before[0] or form.pad_after[0]:
            inside += [row >= 0, row < form.height]
        if form.pad_before[1] or form.pad_after[1]:
            inside += [column >= 0, column < form.width]
        return tirx.if_then_else(tirx.all(*inside), loaded, tirx.const(0.0, "float32")) if inside else loaded

    shape = (layer.blocks, layer.channel_blocks, rows, columns, record.depthwise_lanes)
    return te.compute(shape, value, "P")


def _finished(builder: _Builder, sums: Tensor, what: Epilogue, name: str, dtype: str) -> Tensor:
    """Stage ``name``: the depthwise sums with what follows them, over ``Layer.tile_shape``."""
    layer = builder.layer
    finish = epilogue(builder, layer.form, what, layer.form.depthwise_channels)
    second = _second(builder, what)

    def value(*index: Expr) -> Expr:
        b, c, rt, ct, r, x, lane = index
        row = layer.row(b) + layer.tile_row(rt) + r
        column = layer.column(b) + layer.tile_column(ct) + x
        at = row, column, layer.channel(c, lane)
        return finish(sums(*index), *at, second and second(*at)).astype(dtype)

    return te.compute(layer.tile_shape, value, name)


def _pointwise(builder: _Builder, between: Callable[[Expr, Expr, Expr], Expr]) -> Tensor:
    """Stages ``G`` (matrix product), ``GC`` (its copy in memory, for long activations) and ``O`` (output).

    ``between`` is the depthwise result as a function of (block, channel, pixel of the block).
    """
    layer, form, record = builder.layer, builder.layer.form, builder.layer.record
    assert form.pointwise is not None
    channels = form.depthwise_channels
    panel_shape = (layer.panels, channels, record.tile_vectors, record.lanes)
    weights = builder.operand(f"w:{form.pointwise.weight}", panel_shape)
    k = te.reduce_axis((0, channels), "k")

    def product(b: Expr, panel: Expr, tile: Expr, i: Expr, j: Expr, lane: Expr) -> Expr:
        left = between(b, k, layer.pixel(tile) + i)
        return te.sum(left * weights[panel, k, j, lane], [k])

    sums = te.compute(layer.panel_shape, product, "G")
    if not form.final.is_light:
        held = sums
        sums = te.compute(layer.panel_shape, lambda *index: held(*index), "GC")
    finish = epilogue(builder, form, form.final, form.out_channels)
    second = _second(builder, form.final)

    def value(*index: Expr) -> Expr:
        b, panel, tile, i, j, lane = index
        pixel = layer.image_pixel(b, layer.pixel(tile) + i)
        row, column = tirx.floordiv(pixel, form.out_width), tirx.floormod(pixel, form.out_width)
        at = row, column, layer.filter(panel, j, lane)
        return finish(sums(*index), *at, second and second(*at)).astype(form.out_dtype)

    return te.compute(layer.panel_shape, value, "O")


def _second(builder: _Builder, what: Epilogue) -> Callable[..., Expr] | None:
    """The residual as a function of (row, column, channel)."""
    if what.residual is None:
        return None
    tensor = builder.operand(RESIDUAL, builder.layer.form.image, what.residual)
    return lambda *at: tensor(*at)
