"""From a checked layer and its input shape to IR stages: each part a function, so that blocks can reuse them."""

from __future__ import annotations

import re

from sepcompile.errors import ConfigError
from sepcompile.frontend.layers import LayerConfig
from sepcompile.frontend.values import at
from sepcompile.ir.activations import KINDS, make
from sepcompile.ir.passes import INWARD, OUTWARD, canonicalize
from sepcompile.ir.shapes import out_extent, output_shape, same_padding
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Depthwise,
    Pad,
    Pair,
    Pointwise,
    Program,
    Shape,
    Stage,
    TensorSpec,
    Transpose,
)

Sizes = tuple[int, int, int]


def nhwc_sizes(shape: Shape, channels_first: bool) -> Sizes:
    """(H, W, C) of a Keras shape with batch; H is 1 for a 1-D layer."""
    sizes = [size for size in shape[1:] if size is not None]
    channels = sizes[0] if channels_first else sizes[-1]
    spatial = sizes[1:] if channels_first else sizes[:-1]
    height, width = (1, *spatial)[-2:]
    return height, width, channels


def _pair(values: tuple[int, ...]) -> Pair:
    """Per-axis values of a layer as (H, W); 1 along the H that a 1-D layer does not have."""
    height, width = (1, *values)[-2:]
    return height, width


def _padding(layer: LayerConfig, sizes: Sizes) -> tuple[Pair, Pair]:
    kernel, strides, dilation = _pair(layer.kernel_size), _pair(layer.strides), _pair(layer.dilation_rate)
    if layer.padding == "causal":
        return (0, (kernel[1] - 1) * dilation[1]), (0, 0)
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    top, bottom = same_padding(sizes[0], kernel[0], strides[0], dilation[0])
    left, right = same_padding(sizes[1], kernel[1], strides[1], dilation[1])
    return (top, left), (bottom, right)


def convolution_stages(layer: LayerConfig, sizes: Sizes, prefix: str = "") -> tuple[Stage, ...]:
    """Pad, depthwise and, for a separable layer, pointwise and bias: all but the activation, over NHWC.

    ``sizes`` is the input's (H, W, C); ``prefix`` goes before the names of the weights. Raises ``ConfigError`` where
    the kernel does not fit into the input.
    """
    kernel, strides, dilation = _pair(layer.kernel_size), _pair(layer.strides), _pair(layer.dilation_rate)
    before, after = _padding(layer, sizes)
    _check_fit(layer, sizes, (before, after))
    channels = sizes[2] * layer.depth_multiplier
    stages: list[Stage] = [
        Pad(before, after, at(layer.where, "padding")),
        Depthwise(
            f"{prefix}depthwise_kernel",
            kernel,
            strides,
            dilation,
            sizes[2],
            layer.depth_multiplier,
            at(layer.where, "kernel_size"),
        ),
    ]
    if layer.filters is not None:
        stages.append(Pointwise(f"{prefix}pointwise_kernel", channels, layer.filters, at(layer.where, "filters")))
        channels = layer.filters
    if layer.use_bias:
        stages.append(Bias(f"{prefix}bias", channels, at(layer.where, "use_bias")))
    return tuple(stages)


def _check_fit(layer: LayerConfig, sizes: Sizes, padding: tuple[Pair, Pair]) -> None:
    kernel, dilation = _pair(layer.kernel_size), _pair(layer.dilation_rate)
    for axis in (0, 1):
        size = sizes[axis] + padding[0][axis] + padding[1][axis]
        if out_extent(size, kernel[axis], _pair(layer.strides)[axis], dilation[axis]) < 1:
            span = (kernel[axis] - 1) * dilation[axis] + 1
            raise ConfigError(
                f"{layer.where}.kernel_size={layer.kernel_size} with dilation_rate={layer.dilation_rate} spans {span} "
                f"along spatial axis {axis + layer.cls.rank - 2}, where the input has {sizes[axis]}: the output would "
                "be empty; expected a larger input_shape, a smaller kernel or padding='same'"
            )


def activation_stage(layer: LayerConfig, sizes: Sizes, prefix: str = "") -> Activation:
    """The layer's activation over NHWC; ``sizes`` is what reaches it.

    Keras runs it in the user's layout, so axis -1 of a channels_first layer is its last spatial axis, W.
    """
    config = layer.activation
    axis = None if config.axis is None else nhwc_axis(config.axis, layer, "axis")
    if axis is not None and KINDS[config.kind].halves and sizes[axis - 1] % 2:
        raise ConfigError(f"{config.where}={config.kind!r} halves its axis, of size {sizes[axis - 1]}: it must be even")
    weight = f"{prefix}prelu_alpha" if config.prelu is not None else None
    return make(config.kind, dict(config.params), axis=axis, weight=weight, origin=config.where)


def nhwc_axis(axis: int, layer: LayerConfig, field: str) -> int:
    """A Keras axis (negative from the end, batch 0) of the layer's output as an NHWC axis 1, 2 or 3."""
    rank = layer.cls.rank + 2
    if not -rank <= axis < rank:
        raise ConfigError(f"{layer.activation.where}.{field}={axis}: expected an axis of a tensor with {rank} axes")
    position = axis % rank
    if position == 0:
        raise ConfigError(f"{layer.activation.where}.{field}={axis}: across the batch; expected an axis after it")
    spatial = (1, 2)[2 - layer.cls.rank :]
    order = (3, *spatial) if layer.channels_first else (*spatial, 3)
    return order[position - 1]


def stages_after(stages: tuple[Stage, ...], sizes: Sizes) -> Sizes:
    """(H, W, C) after NHWC stages without transposes."""
    shape: Shape = (None, *sizes)
    program = Program("part", TensorSpec(shape, "float32"), TensorSpec(shape, "float32"), stages)
    _, height, width, channels = output_shape(program)
    assert height is not None and width is not None and channels is not None
    return height, width, channels


def build_program(layer: LayerConfig, input_shape: Shape) -> Program:
    """The canonical, verified program of one layer for a Keras input shape (with batch) that fits it."""
    sizes = nhwc_sizes(input_shape, layer.channels_first)
    convolution = convolution_stages(layer, sizes)
    middle: tuple[Stage, ...] = (*convolution, activation_stage(layer, stages_after(convolution, sizes)))
    if layer.channels_first:
        where = at(layer.where, "data_format")
        middle = (Transpose(INWARD, where), *middle, Transpose(OUTWARD, where))
    source = TensorSpec(input_shape, layer.policy.compute)
    draft = Program(program_name(layer.name), source, source, middle)
    target = TensorSpec(output_shape(draft), layer.output_dtype)
    return canonicalize(Program(draft.name, source, target, middle))


def program_name(name: str) -> str:
    """A layer's name as a C identifier of at most 64 characters: it becomes symbols and file names."""
    text = re.sub(r"[^A-Za-z0-9_]", "_", name)[:64]
    return text if text and not text[0].isdigit() else f"layer_{text}"[:64]
