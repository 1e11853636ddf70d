"""The kernels of a channels_first layer with vectors along pixels, as tensor expressions over a schedule's tiles.

Stages, by the names that schedules know them by: ``P`` padded rows of a channel, ``DA`` depthwise sums, ``D`` depthwise
result, ``G`` pointwise sums, ``GC`` their copy in memory, ``O`` output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, te, tirx

from sepcompile.compute import activations
from sepcompile.compute.epilogue import alpha_at, epilogue
from sepcompile.compute.form import Epilogue
from sepcompile.compute.kernel import Builder, KernelIR
from sepcompile.compute.planar_layer import PlanarLayer

Expr = Any
Tensor = Any


class _Builder(Builder):
    """The builder of one planar kernel."""

    def __init__(self, layer: PlanarLayer) -> None:
        super().__init__()
        self.layer = layer


def fused_planar_kernel(layer: PlanarLayer, source: str, target: str) -> KernelIR:
    """Depthwise and pointwise in one kernel, block by block."""
    builder = _Builder(layer)
    output = _pointwise(builder, _between(builder, source))
    views = {"P": layer.staged_view, "D": layer.scratch_view, "O": layer.pointwise_output_view}
    kernel = builder.finish(output, target, views)
    return _reading_whole(_reading_whole(kernel, "DA", "P"), "G", "D")


def depthwise_planar_kernel(layer: PlanarLayer, source: str, target: str) -> KernelIR:
    """A depthwise layer."""
    builder = _Builder(layer)
    output = _finished(builder, _depthwise(builder, source), layer.form.final, "O", layer.form.out_dtype)
    kernel = builder.finish(output, target, {"P": layer.staged_view, "O": layer.depthwise_output_view})
    return _reading_whole(kernel, "DA", "P")


def split_planar_kernels(layer: PlanarLayer, source: str, between: str, target: str) -> tuple[KernelIR, KernelIR]:
    """Depthwise and pointwise as two kernels; ``between`` holds ``PlanarLayer.scratch_view``'s elements."""
    first = _Builder(layer)
    head = first.finish(_between(first, source), between, {"P": layer.staged_view, "D": layer.scratch_view})
    second = _Builder(layer)
    middle = second.operand(between, layer.tile_shape)
    views = {middle.op.name: layer.scratch_view, "O": layer.pointwise_output_view}
    return _reading_whole(head, "DA", "P"), second.finish(_pointwise(second, middle), target, views)


def _between(builder: _Builder, source: str) -> Tensor:
    """Stage ``D``: what stands between the depthwise and the pointwise stage."""
    return _finished(builder, _depthwise(builder, source), builder.layer.form.middle, "D", "float32")


def _depthwise(builder: _Builder, source: str) -> Tensor:
    """Stages ``P`` and ``DA``, the latter over ``PlanarLayer.tile_shape``."""
    layer, stage = builder.layer, builder.layer.form.depthwise
    (kh, kw), (sh, sw), (dh, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    padded = _padded(builder, source)
    weights = builder.operand(f"w:{stage.weight}", (layer.form.channels, kh, kw))
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")

    def taps(b: Expr, c: Expr, rt: Expr, ct: Expr, r: Expr, x: Expr, lane: Expr) -> Expr:
        row = (layer.tile_row(rt) + r) * sh + dy * dh
        column = layer.column(ct, x) + tirx.floordiv(dx * dw, sw) + lane
        return te.sum(padded[b, c, row, tirx.floormod(dx * dw, sw), 0, column] * weights[c, dy, dx], [dy, dx])

    return te.compute(layer.tile_shape, taps, "DA")


def _padded(builder: _Builder, source: str) -> Tensor:
    """One channel's rows of a block, zero outside the image, by column phases."""
    layer, form = builder.layer, builder.layer.form
    stage = form.depthwise
    x = builder.operand(source, (form.channels, form.height, form.width), form.in_dtype)
    alpha = alpha_at(builder, form, form.pre)

    def value(b: Expr, c: Expr, y: Expr, phase: Expr, vector: Expr, lane: Expr) -> Expr:
        row = layer.row(b) * stage.strides[0] - form.pad_before[0] + y
        first = layer.staged_column(phase, vector) * stage.strides[1] + phase - form.pad_before[1]
        column = first + lane * stage.strides[1]
        loaded = x[c, row, column].astype("float32")
        if form.pre is not None:
            loaded = activations.apply(form.pre, loaded, alpha and alpha(row, column, c))
        inside = [vector >= sum(layer.margins)] if sum(layer.margins) else []
        if form.pad_before[0] or form.pad_after[0]:
            inside += [row >= 0, row < form.height]
        return tirx.if_then_else(tirx.all(*inside), loaded, tirx.const(0.0, "float32")) if inside else loaded

    return te.compute(layer.staged_shape, value, "P")


def _finished(builder: _Builder, sums: Tensor, what: Epilogue, name: str, dtype: str) -> Tensor:
    """Stage ``name``: the depthwise sums with what follows them, over ``PlanarLayer.tile_shape``."""
    layer = builder.layer
    finish = epilogue(builder, layer.form, what, layer.form.channels)

    def value(*index: Expr) -> Expr:
        b, c, rt, ct, r, x, lane = index
        row, column = layer.row(b) + layer.tile_row(rt) + r, layer.column(ct, x) + lane
        return finish(sums(*index), row, column, c).astype(dtype)

    return te.compute(layer.tile_shape, value, name)


def _pointwise(builder: _Builder, between: Tensor) -> Tensor:
    """Stages ``G`` (matrix product), ``GC`` (its copy in memory, for long activations) and ``O`` (output)."""
    layer, form, record = builder.layer, builder.layer.form, builder.layer.record
    assert form.pointwise is not None
    weights = builder.operand(f"w:{form.pointwise.weight}", (layer.panels, form.channels, record.tile_filters))
    k = te.reduce_axis((0, form.channels), "k")

    def product(b: Expr, panel: Expr, tile: Expr, i: Expr, j: Expr, lane: Expr) -> Expr:
        return te.sum(between[b, k, 0, 0, 0, 0, layer.pixel(tile, j, lane)] * weights[panel, k, i], [k])

    sums = te.compute(layer.panel_shape, product, "G")
    if not form.final.is_light:
        held = sums
        sums = te.compute(layer.panel_shape, lambda *index: held(*index), "GC")
    finish = epilogue(builder, form, form.final, form.out_channels)

    def value(*index: Expr) -> Expr:
        b, panel, tile, i, j, lane = index
        number, pixel = layer.filter(panel, i), layer.row(b) * form.out_width + layer.pixel(tile, j, lane)
        row, column = tirx.floordiv(pixel, form.out_width), tirx.floormod(pixel, form.out_width)
        return finish(sums(*index), row, column, number).astype(form.out_dtype)

    return te.compute(layer.panel_shape, value, "O")


def _reading_whole(kernel: KernelIR, reader: str, buffer: str) -> KernelIR:
    """The kernel with stage ``reader`` declared to read all of ``buffer`` that belongs to its block and channel.

    ``buffer`` is stored by vectors and read by column, so the elements that a load names are not those that some
    vector wrote. Without this, TVM would compute only the vectors whose numbers the loads happen to name.
    """

    def widen(region: Any) -> Any:
        if region.source.name != buffer:
            return region
        whole = [ir.Range(0, extent) for extent in region.source.shape[2:]]
        return ir.TensorRegion(region.source, [*region.region[:2], *whole], region.ty)

    def block(node: Any) -> Any:
        if node.name_hint != reader:
            return node
        reads = [widen(region) for region in node.reads]
        parts = (node.iter_vars, reads, node.writes, node.name_hint, node.body, node.init)
        return s_tir.SBlock(*parts, node.alloc_buffers, node.match_buffers, node.annotations)

    body = tvm_ffi.structural_map(kernel.func.body, [(s_tir.SBlock, block)])
    return replace(kernel, func=kernel.func.with_body(body))
