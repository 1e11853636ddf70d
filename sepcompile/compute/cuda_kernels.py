"""The CUDA kernels of a separable or depthwise layer as tensor expressions over (block, pixel, channel).

Stages, by the names that schedules know them by: ``XI`` a thread's register window of the input, ``DW`` depthwise sums,
``DL`` a thread's depthwise results, ``D`` what stands between the stages (a tile in shared memory), ``G`` pointwise
sums, ``E`` result before it is stored, ``O`` output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from sepcompile.compute import activations
from sepcompile.compute.cuda_record import CudaSchedule, between_dtype
from sepcompile.compute.cuda_tile import ANY_LENGTH, Grid, GuardedView, Tile
from sepcompile.compute.epilogue import RESIDUAL, alpha_at, epilogue
from sepcompile.compute.form import Epilogue, Form

Expr = Any
Tensor = Any


@dataclass(frozen=True)
class CudaKernel:
    """One kernel before scheduling. ``operands`` maps a buffer's name in the function to a plan's operand."""

    func: Any
    tile: Tile
    operands: dict[str, str]
    views: dict[str, GuardedView]
    grid: Grid


class Builder:
    """Collects the parameters of one kernel while its stages are declared."""

    def __init__(self, form: Form, record: CudaSchedule, flat: bool = False) -> None:
        self.rows = te.var("rows", "int32")
        self.blocks = te.var("blocks", "int32")
        self.tile = Tile(form, record, self.rows, flat)
        self.inputs: dict[str, Tensor] = {}

    def operand(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        """The placeholder of an operand of the plan."""
        if name not in self.inputs:
            self.inputs[name] = te.placeholder(shape, dtype, f"p{len(self.inputs)}")
        return self.inputs[name]

    def finish(self, output: Tensor, target: str, view: GuardedView, y: int) -> CudaKernel:
        """The kernel that computes ``output``, with ``y`` blocks along y."""
        func = te.create_prim_func([self.rows, self.blocks, *self.inputs.values(), output])
        operands = {tensor.op.name: name for name, tensor in self.inputs.items()} | {"O": target}
        return CudaKernel(func, self.tile, operands, {"O": view}, Grid(*self.tile.grid_rows, y))


def fused_kernel(form: Form, record: CudaSchedule, source: str, target: str) -> CudaKernel:
    """Depthwise and pointwise in one kernel."""
    builder = Builder(form, record)
    return _pointwise(builder, _between(builder, _depthwise(builder, source)), target)


def depthwise_kernel(form: Form, record: CudaSchedule, source: str, target: str) -> CudaKernel:
    """A depthwise layer, or the first half of a split one, whose result keeps the padded channels last."""
    builder = Builder(form, record)
    tile = builder.tile
    sums = _depthwise(builder, source)
    whole = form.pointwise is None
    if whole:
        what, view = form.final, tile.output_view(form.channels_first_out, form.depthwise_channels, tile.channels)
    else:
        what, view = form.middle, tile.output_view(False, tile.channels, tile.channels)
    finish = epilogue(builder, form, what, tile.channels, padded=True)
    second = _second(builder, what, view)
    dtype = form.out_dtype if whole else between_dtype(form, record)
    shape = (builder.blocks, tile.pixels, tile.channels)

    def value(b: Expr, p: Expr, c: Expr) -> Expr:
        at = tile.where(b, p)
        return finish(sums[b, p, c], at.row, at.column, c, second(b, p, c)).astype(dtype)

    held = te.compute(shape, value, "E")
    output = te.compute(shape, lambda *i: held(*i), "O")
    return builder.finish(output, target, view, tile.channels // record.tile_channels)


def pointwise_kernel(form: Form, record: CudaSchedule, source: str, target: str) -> CudaKernel:
    """The second half of a split layer: a matrix product over the pixels of the whole batch."""
    builder = Builder(form, record, flat=True)
    tile = builder.tile
    dtype = between_dtype(tile.form, tile.record)
    x = builder.operand(source, (ANY_LENGTH,), dtype)
    zero = tirx.const(0.0, dtype)

    def value(b: Expr, p: Expr, c: Expr) -> Expr:
        m = b * tile.pixels + p
        return tirx.if_then_else(m < builder.rows, x[m * tile.channels + c], zero)

    return _pointwise(builder, te.compute((builder.blocks, tile.pixels, tile.channels), value, "D"), target)


def _depthwise(builder: Builder, source: str) -> Tensor:
    """Stages ``XI`` and ``DW``."""
    tile, form, record = builder.tile, builder.tile.form, builder.tile.record
    stage, window, taps = form.depthwise, record.window, record.taps
    (kh, kw), (_, sw), (_, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    inputs = _window(builder, source)
    weights = builder.operand(f"w:{stage.weight}", (kh, kw, tile.channels))
    dy, do, di = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw // taps), "do"), te.reduce_axis((0, taps), "di")

    def value(b: Expr, p: Expr, c: Expr) -> Expr:
        loaded = inputs[b, p // window, dy, do, p % window * sw + di * dw, c].astype("float32")
        return te.sum(loaded * weights[dy, do * taps + di, c], [dy, do, di])

    return te.compute((builder.blocks, tile.pixels, tile.channels), value, "DW")


def _window(builder: Builder, source: str) -> Tensor:
    """Stage ``XI`` over (block, pixel group, kernel row, tap chunk, column, channel); zero outside the image."""
    tile, form, record = builder.tile, builder.tile.form, builder.tile.record
    stage, window, taps = form.depthwise, record.window, record.taps
    (kh, kw), (sh, sw), (dh, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    x = builder.operand(source, (ANY_LENGTH,), form.in_dtype)
    alpha = alpha_at(builder, form, form.pre, padded=True)
    dtype = form.in_dtype if form.pre is None else "float32"

    def value(b: Expr, g: Expr, dy: Expr, do: Expr, j: Expr, c: Expr) -> Expr:
        at = tile.where(b, g * window)
        row = at.row * sh - form.pad_before[0] + dy * dh
        column = at.column * sw - form.pad_before[1] + do * (taps * dw) + j
        channel = c // stage.depth_multiplier if stage.depth_multiplier > 1 else c
        loaded = x[tile.input_index(at.image, row, column, channel)].astype(dtype)
        if form.pre is not None:
            loaded = activations.apply(form.pre, loaded, alpha and alpha(row, column, channel))
        inside = _inside(tile, b, g * window, row, column, c)
        return tirx.if_then_else(inside, loaded, tirx.const(0.0, dtype))

    columns = (window - 1) * sw + (taps - 1) * dw + 1
    shape = (builder.blocks, tile.pixels // window, kh, kw // taps, columns, tile.channels)
    return te.compute(shape, value, "XI")


def _inside(tile: Tile, block: Expr, pixel: Expr, row: Expr, column: Expr, channel: Expr) -> Expr:
    """Whether an input element exists. Columns are always tested: a window reaches past the last output column."""
    form = tile.form
    block_row = block // tile.column_tiles * tile.record.tile_rows + pixel // tile.record.tile_columns
    conditions = [block_row < tile.rows, column >= 0, column < form.width]
    if form.pad_before[0] or form.pad_after[0]:
        conditions += [row >= 0, row < form.height]
    if tile.channels > form.depthwise_channels:
        conditions.append(channel < form.depthwise_channels)
    return tirx.all(*conditions)


def _between(builder: Builder, sums: Tensor) -> Tensor:
    """Stages ``DL`` and ``D``, its copy in shared memory."""
    tile, record = builder.tile, builder.tile.record
    finish = epilogue(builder, tile.form, tile.form.middle, tile.channels, padded=True)

    def value(b: Expr, p: Expr, c: Expr) -> Expr:
        at = tile.where(b, p)
        return finish(sums[b, p, c], at.row, at.column, c).astype(between_dtype(tile.form, record))

    shape = (builder.blocks, tile.pixels, tile.channels)
    held = te.compute(shape, value, "DL")
    return te.compute(shape, lambda *i: held(*i), "D")


def _pointwise(builder: Builder, between: Tensor, target: str) -> CudaKernel:
    """Stages ``G``, ``E`` and ``O``."""
    tile, form, record = builder.tile, builder.tile.form, builder.tile.record
    assert form.pointwise is not None
    weights = builder.operand(f"w:{form.pointwise.weight}", (tile.channels, tile.filters), between_dtype(form, record))
    k = te.reduce_axis((0, tile.channels), "k")
    shape = (builder.blocks, tile.pixels, tile.filters)

    def product(b: Expr, p: Expr, f: Expr) -> Expr:
        return te.sum(between[b, p, k].astype("float32") * weights[k, f].astype("float32"), [k])

    sums = te.compute(shape, product, "G")
    finish = epilogue(builder, form, form.final, tile.filters, padded=True)
    view = tile.output_view(form.channels_first_out, form.out_channels, tile.filters)
    second = _second(builder, form.final, view)

    def value(b: Expr, p: Expr, f: Expr) -> Expr:
        at = tile.where(b, p)
        return finish(sums[b, p, f], at.row, at.column, f, second(b, p, f)).astype(form.out_dtype)

    held = te.compute(shape, value, "E")
    output = te.compute(shape, lambda *i: held(*i), "O")
    return builder.finish(output, target, view, tile.filters // record.tile_filters)


def _second(builder: Builder, what: Epilogue, view: GuardedView) -> Callable[..., Expr | None]:
    """The residual as a function of (block, pixel, channel): it lies as the output does. Zero outside of it."""
    if what.residual is None:
        return lambda *_: None
    tensor = builder.operand(RESIDUAL, (ANY_LENGTH,), what.residual)
    zero = tirx.const(0.0, what.residual)

    def load(*index: Expr) -> Expr:
        loaded, inside = tensor[view.store(index)], view.inside(index)
        return loaded if inside is None else tirx.if_then_else(inside, loaded, zero)

    return load
