"""The shape of every tensor of a graph, as far as it can be told without running Keras.

Keras 3 writes shapes beside the tensors and in ``build_config``; Keras 2's files have none but the inputs', so the
common layers' shapes are computed. A layer that is not known here gives no shape, and what follows it takes the one
that the file declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sepcompile.errors import ConfigError
from sepcompile.frontend.model.flatten import Declared
from sepcompile.frontend.model.graph import Graph, Node, Ref
from sepcompile.frontend.values import show
from sepcompile.ir.shapes import out_extent
from sepcompile.ir.stages import Shape

MAX_SIZE = 2**31 - 1
MAX_RANK = 8

_SAME = frozenset(
    {
        "BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "SyncBatchNormalization",
        "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "ThresholdedReLU", "Dropout", "SpatialDropout1D",
        "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Rescaling",
        "Normalization", "Identity", "Masking",
    }
)  # fmt: skip
_MERGES = frozenset({"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"})
_Rule = Callable[[Mapping[str, Any], Shape], Shape | None]


def with_shapes(graph: Graph, declared: Declared, input_shape: object = None) -> Graph:
    """The graph with its tensors' shapes. ``input_shape`` replaces that of a model's one input.

    Raises ``ConfigError`` for a shape that is none.
    """
    shapes: dict[Ref, Shape] = {}
    if input_shape is not None:
        starts = [number for number, node in enumerate(graph.nodes) if node.layer.class_name == "InputLayer"]
        if len(starts) != 1:
            raise ConfigError(f"{graph.label}: input_shape is for a model with one input; this one has {len(starts)}")
        shapes[Ref(starts[0])] = _checked(input_shape, graph, "input_shape")
        declared = {}  # they follow from the shape that was replaced
    for number, node in enumerate(graph.nodes):
        _take_built(graph, node, shapes, declared if input_shape is None else None)
        ref = Ref(number)
        found = shapes.get(ref) or _output(graph, node, [shapes.get(item) for item in node.inputs])
        if found is None and ref in declared:
            found = _checked(declared[ref], graph, f"shape of {graph.tensor_name(ref)}")
        if found is not None:
            shapes[ref] = found
    return replace(graph, shapes=shapes)


def _take_built(graph: Graph, node: Node, shapes: dict[Ref, Shape], declared: Declared | None) -> None:
    """An input's shape from the file, where it could not be computed."""
    if declared is None:
        return
    for ref in node.inputs:
        if ref in shapes:
            continue
        if ref in declared:
            shapes[ref] = _checked(declared[ref], graph, f"shape of an input of {node.layer.where}")
        elif len(node.inputs) == 1 and _is_shape(node.layer.built):
            shapes[ref] = _checked(node.layer.built, graph, f"{node.layer.where}.build_config.input_shape")


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and all(item is None or isinstance(item, int) for item in value)


def _checked(value: object, graph: Graph, what: str) -> Shape:
    items = list(value) if isinstance(value, list | tuple) else None
    if items is None or not 1 <= len(items) <= MAX_RANK:
        raise ConfigError(f"{graph.label}: {what}={show(value)}: expected a shape of 1 to {MAX_RANK} entries")
    for item in items:
        if item is not None and (isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= MAX_SIZE):
            raise ConfigError(f"{graph.label}: {what}={show(value)}: expected None or integers up to {MAX_SIZE}")
    return tuple(items)


def _output(graph: Graph, node: Node, inputs: list[Shape | None]) -> Shape | None:
    """The first output's shape, or None where it cannot be told; a config that makes no sense here tells none."""
    name, config = node.layer.class_name.rsplit(">", 1)[-1], node.layer.config
    if name == "InputLayer":
        value = config.get("batch_shape", config.get("batch_input_shape"))
        return None if value is None else _checked(value, graph, f"{node.layer.where}.batch_shape")
    if not inputs or any(shape is None for shape in inputs):
        return None
    known = [shape for shape in inputs if shape is not None]
    if name in _MERGES:
        return known[0] if all(shape == known[0] for shape in known) else None
    if name == "Concatenate":
        return _concatenated(config, known)
    if name in _SAME:
        return known[0]
    rule = _RULES.get(name)
    try:
        found = rule(config, known[0]) if rule is not None and len(known) == 1 else None
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError):
        return None
    return found if found is not None and all(s is None or 0 < s <= MAX_SIZE for s in found) else None


def _concatenated(config: Mapping[str, Any], shapes: list[Shape]) -> Shape | None:
    axis = config.get("axis", -1)
    rank = len(shapes[0])
    if not isinstance(axis, int) or any(len(shape) != rank for shape in shapes) or not -rank <= axis < rank:
        return None
    sizes = [shape[axis] for shape in shapes]
    total = None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)
    result = list(shapes[0])
    result[axis] = total
    return tuple(result)


# ---- rules ---------------------------------------------------------------------------------------------------------


def spatial_axes(config: Mapping[str, Any], rank: int) -> range:
    """Which axes of a Keras shape are spatial."""
    first = str(config.get("data_format")).lower() == "channels_first"
    return range(2, rank) if first else range(1, rank - 1)


def per_axis(value: object, count: int) -> list[int]:
    """An integer for every spatial axis. Raises ``ValueError``."""
    items: Any = value if isinstance(value, list | tuple) else [value] * count
    if len(items) != count or not all(isinstance(i, int) and 0 < i <= MAX_SIZE for i in items):
        raise ValueError(value)
    return [int(item) for item in items]


def _windows(config: Mapping[str, Any], shape: Shape, size: object, strides: object, channels: int | None) -> Shape:
    axes = spatial_axes(config, len(shape))
    dilation = per_axis(config.get("dilation_rate", 1), len(axes))
    result = list(shape)
    for axis, k, s, d in zip(axes, per_axis(size, len(axes)), per_axis(strides, len(axes)), dilation, strict=True):
        extent = shape[axis]
        if extent is not None:
            same = str(config.get("padding", "valid")).lower() in ("same", "causal")
            result[axis] = -(-extent // s) if same else out_extent(extent, k, s, d)
    if channels is not None:
        result[1 if axes.start == 2 else -1] = channels
    return tuple(result)


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 < value <= MAX_SIZE:
        raise ValueError(value)
    return value


def _convolution(config: Mapping[str, Any], shape: Shape) -> Shape:
    return _windows(config, shape, config["kernel_size"], config.get("strides", 1), _count(config["filters"]))


def _depthwise(config: Mapping[str, Any], shape: Shape) -> Shape | None:
    first = spatial_axes(config, len(shape)).start == 2
    channels = shape[1 if first else -1]
    if channels is None:
        return None
    wide = channels * _count(config.get("depth_multiplier", 1))
    return _windows(config, shape, config["kernel_size"], config.get("strides", 1), wide)


def _pooling(config: Mapping[str, Any], shape: Shape) -> Shape:
    size = config.get("pool_size", 2)
    strides = config.get("strides")
    return _windows(config, shape, size, size if strides is None else strides, None)


def edges(value: object, count: int) -> list[tuple[int, int]]:
    """``padding`` or ``cropping`` as (before, after) per spatial axis. Raises ``ValueError``."""
    items: Any = value if isinstance(value, list | tuple) else [value] * count
    if count == 1 and len(items) == 2 and all(isinstance(item, int) for item in items):
        items = [items]
    if len(items) != count:
        raise ValueError(value)
    pairs = [tuple(item) if isinstance(item, list | tuple) else (item, item) for item in items]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in pair):
            raise ValueError(value)
    return [(pair[0], pair[1]) for pair in pairs]


def _resized(config: Mapping[str, Any], shape: Shape, key: str, sign: int) -> Shape:
    axes = spatial_axes(config, len(shape))
    result = list(shape)
    for axis, (before, after) in zip(axes, edges(config.get(key, 1), len(axes)), strict=True):
        extent = shape[axis]
        result[axis] = None if extent is None else extent + sign * (before + after)
    return tuple(result)


def _upsampled(config: Mapping[str, Any], shape: Shape) -> Shape:
    axes = spatial_axes(config, len(shape))
    result = list(shape)
    for axis, factor in zip(axes, per_axis(config.get("size", 2), len(axes)), strict=True):
        extent = shape[axis]
        result[axis] = None if extent is None else extent * factor
    return tuple(result)


def _global_pool(config: Mapping[str, Any], shape: Shape) -> Shape:
    axes = spatial_axes(config, len(shape))
    if config.get("keepdims"):
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _dense(config: Mapping[str, Any], shape: Shape) -> Shape:
    return (*shape[:-1], _count(config["units"]))


def _flat(config: Mapping[str, Any], shape: Shape) -> Shape:
    sizes = [size for size in shape[1:] if size is not None]
    return (shape[0], math.prod(sizes) if len(sizes) == len(shape) - 1 else None)


def _reshaped(config: Mapping[str, Any], shape: Shape) -> Shape:
    target = [int(size) for size in config["target_shape"]]
    if len(target) >= MAX_RANK:
        raise ValueError(target)
    if -1 in target:
        total = math.prod(size for size in shape[1:] if size is not None)
        known = math.prod(size for size in target if size != -1)
        if any(size is None for size in shape[1:]):
            return (shape[0], *(None if size == -1 else size for size in target))
        target[target.index(-1)] = total // known
    return (shape[0], *target)


def _permuted(config: Mapping[str, Any], shape: Shape) -> Shape:
    dims = [int(axis) for axis in config["dims"]]
    if sorted(dims) != list(range(1, len(shape))):
        raise ValueError(dims)
    return (shape[0], *(shape[axis] for axis in dims))


_RULES: Mapping[str, _Rule] = {
    **{f"{kind}Conv{rank}D": _convolution for kind in ("", "Separable") for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": _depthwise for rank in (1, 2)},
    **{f"{kind}Pooling{rank}D": _pooling for kind in ("Max", "Average") for rank in (1, 2, 3)},
    **{f"Global{kind}Pooling{rank}D": _global_pool for kind in ("Max", "Average") for rank in (1, 2, 3)},
    **{f"ZeroPadding{r}D": lambda config, shape: _resized(config, shape, "padding", 1) for r in (1, 2, 3)},
    **{f"Cropping{r}D": lambda config, shape: _resized(config, shape, "cropping", -1) for r in (1, 2, 3)},
    **{f"UpSampling{rank}D": _upsampled for rank in (1, 2, 3)},
    "Dense": _dense,
    "Flatten": _flat,
    "Reshape": _reshaped,
    "Permute": _permuted,
}


def multiply_adds(graph: Graph, number: int) -> int | None:
    """Multiply-accumulates of one call for one image; 0 for layers that do none, None where it cannot be told."""
    try:
        return _macs(graph, number)
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError):
        return None


def _macs(graph: Graph, number: int) -> int | None:
    node = graph.nodes[number]
    name = node.layer.class_name.rsplit(">", 1)[-1]
    if name in _SAME | _MERGES or (name not in _RULES and name in ("Concatenate", "InputLayer")):
        return 0
    before, after = graph.shapes.get(node.inputs[0]) if node.inputs else None, graph.shapes.get(Ref(number))
    if name not in _RULES or before is None or after is None or None in (*before[1:], *after[1:]):
        return None
    if name == "Dense":
        return math.prod(size or 0 for size in after[1:]) * (before[-1] or 0)
    if "Conv" not in name:
        return 0
    config, axes = node.layer.config, spatial_axes(node.layer.config, len(before))
    channel = 1 if axes.start == 2 else -1
    taps = math.prod(per_axis(config["kernel_size"], len(axes)))
    pixels = math.prod(after[axis] or 0 for axis in axes)
    inside, outside = before[channel] or 0, after[channel] or 0
    if "Depthwise" in name:
        return pixels * outside * taps
    if "Separable" in name:
        wide = inside * _count(config.get("depth_multiplier", 1))
        return pixels * wide * (taps + outside)
    return pixels * outside * taps * inside // _count(config.get("groups") or 1)
