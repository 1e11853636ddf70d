"""Shape inference: the rank-4 shape after every stage, the layout there, and the shapes of the weights.

``Layout`` says which NHWC axis stands at each position: (0, 1, 2, 3) for NHWC and (0, 3, 1, 2) for NCHW.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sepcompile.errors import ConfigError
from sepcompile.ir.activations import KINDS
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Depthwise,
    Pad,
    Pointwise,
    Program,
    ScaleShift,
    Shape,
    Stage,
    Transpose,
    input_shape,
    is_channels_first,
)

Layout = tuple[int, int, int, int]
Dims = tuple[int | None, int, int, int]
NHWC: Layout = (0, 1, 2, 3)
NCHW: Layout = (0, 3, 1, 2)


@dataclass(frozen=True)
class Placed:
    """A stage with the shape and layout of its input and the shape of its output."""

    stage: Stage
    layout: Layout
    before: Dims
    after: Dims


def out_extent(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many positions a valid window has along one axis; below 1 means that the window does not fit."""
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Keras's ``same`` zeros (before, after) along one axis; the odd one comes after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def permute(layout: Layout, perm: Layout) -> Layout:
    """The layout after a ``Transpose``."""
    a, b, c, d = perm
    return layout[a], layout[b], layout[c], layout[d]


def stage_output(stage: Stage, dims: Dims) -> Dims:
    """The shape after ``stage`` for an input of shape ``dims``; raises ``ConfigError`` where none exists."""
    n, h, w, c = dims
    if isinstance(stage, Transpose):
        return _transposed(stage, dims)
    if isinstance(stage, Pad):
        return n, h + stage.before[0] + stage.after[0], w + stage.before[1] + stage.after[1], c
    if isinstance(stage, Depthwise):
        kernel, strides, dilation = stage.kernel_size, stage.strides, stage.dilation_rate
        rows = out_extent(h, kernel[0], strides[0], dilation[0])
        columns = out_extent(w, kernel[1], strides[1], dilation[1])
        return n, rows, columns, c * stage.depth_multiplier
    if isinstance(stage, Pointwise):
        return n, h, w, stage.filters
    if isinstance(stage, Activation) and KINDS[stage.kind].halves:
        return _halved(stage, dims)
    return dims


def _transposed(stage: Transpose, dims: Dims) -> Dims:
    if stage.perm[0] != 0:
        raise ConfigError(f"{stage.origin}: Transpose perm={stage.perm} must leave the batch axis in its place")
    _, b, c, d = (dims[axis] for axis in stage.perm)
    assert b is not None and c is not None and d is not None
    return dims[0], b, c, d


def _halved(stage: Activation, dims: Dims) -> Dims:
    axis = stage.axis
    size = dims[axis] if axis in (1, 2, 3) else None
    if axis is None or size is None or size % 2:
        raise ConfigError(f"{stage.origin}: activation {stage.kind!r} splits axis {axis} of {dims}: it must be even")
    n, *rest = dims
    rest[axis - 1] = size // 2
    return n, rest[0], rest[1], rest[2]


def place(program: Program) -> Iterator[Placed]:
    """Every stage of the program with its input shape, its layout and its output shape, in order."""
    layout = NCHW if is_channels_first(program) else NHWC
    n, b, c, d = input_shape(program)
    assert b is not None and c is not None and d is not None
    dims: Dims = (n, b, c, d)
    for stage in program.stages:
        after = stage_output(stage, dims)
        yield Placed(stage, layout, dims, after)
        if isinstance(stage, Transpose):
            layout = permute(layout, stage.perm)
        dims = after


def unlift(dims: Dims, layout: Layout, rank: int) -> Shape:
    """``dims`` in the user's rank: a 1-D program's H = 1, wherever the layout has it, is dropped."""
    if rank == 4:
        return dims
    return tuple(size for position, size in enumerate(dims) if layout[position] != 1)


def output_shape(program: Program) -> Shape:
    """The shape the program computes, in the user's layout and rank."""
    layout = NCHW if is_channels_first(program) else NHWC
    n, b, c, d = input_shape(program)
    assert b is not None and c is not None and d is not None
    dims: Dims = (n, b, c, d)
    for placed in place(program):
        dims = placed.after
        layout = permute(layout, placed.stage.perm) if isinstance(placed.stage, Transpose) else layout
    return unlift(dims, layout, len(program.input.shape))


def weight_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that the stages read; PReLU's alpha is given in full and may have 1 for any axis."""
    shapes: dict[str, tuple[int, ...]] = {}
    for placed in place(program):
        stage = placed.stage
        if isinstance(stage, Depthwise):
            shapes[stage.weight] = (*stage.kernel_size, stage.channels, stage.depth_multiplier)
        elif isinstance(stage, Pointwise):
            shapes[stage.weight] = (stage.channels, stage.filters)
        elif isinstance(stage, Bias):
            shapes[stage.weight] = (stage.channels,)
        elif isinstance(stage, ScaleShift):
            shapes[stage.scale] = shapes[stage.shift] = (stage.channels,)
        elif isinstance(stage, Activation) and stage.weight is not None:
            sizes = dict(zip(placed.layout, placed.before, strict=True))
            shapes[stage.weight] = tuple(sizes[axis] or 1 for axis in (1, 2, 3))
    return shapes
