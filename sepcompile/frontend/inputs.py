"""The input shape of a layer: from the caller, or from the config and what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.layers import LayerConfig
from sepcompile.frontend.values import MAX_INTEGER, at, fail, integer, mapping, plain, show
from sepcompile.ir.stages import Origin, Shape


def read_shape(value: object, layer: LayerConfig, where: Origin) -> Shape:
    """A Keras shape with batch, of rank + 2 entries; only the batch may be None.

    Raises ``UnsupportedError`` for a dynamic spatial size, which Keras allows, and ``ConfigError`` for a dynamic
    channel dimension, which it does not, and for everything else.
    """
    expected = _expected(layer)
    items = plain(list(value) if isinstance(value, tuple) else _listed(value, where, expected), where)
    rank = layer.cls.rank + 2
    if len(items) != rank:
        hint = "; the batch comes first, None when it is dynamic" if len(items) == rank - 1 else ""
        fail(where, tuple(items), f"{rank} entries {expected}{hint}")
    channel = 1 if layer.channels_first else rank - 1
    for position, size in enumerate(items):
        if size is None:
            _check_dynamic(position, channel, tuple(items), where, expected)
        elif isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_INTEGER:
            fail(where, tuple(items), f"{expected} of integers >= 1, entry {position} is {show(size)}")
    return tuple(items)


def _listed(value: object, where: Origin, expected: str) -> list[Any]:
    """A list, or anything that lists its sizes, such as TensorFlow's TensorShape."""
    as_list = getattr(value, "as_list", None)
    try:
        items = as_list() if callable(as_list) else value
    except Exception:
        items = None
    if not isinstance(items, list):
        fail(where, value, f"a tuple {expected}")
    return items


def _check_dynamic(position: int, channel: int, items: Shape, where: Origin, expected: str) -> None:
    if position == channel:
        raise ConfigError(f"{where}={items}: the channel dimension must be known; expected {expected}")
    if position:
        raise UnsupportedError(f"{where}={items}: a dynamic spatial size is not compiled; only the batch may be None")


def _expected(layer: LayerConfig) -> str:
    spatial = ("height", "width")[2 - layer.cls.rank :]
    names = ("channels", *spatial) if layer.channels_first else (*spatial, "channels")
    return f"({', '.join(('batch', *names))})"


def find_shape(
    argument: object,
    config: Mapping[str, Any],
    surroundings: Mapping[str, Any],
    layer: LayerConfig,
) -> tuple[Shape, tuple[str, ...]]:
    """The input shape and notes about the places that say otherwise.

    In this order: the caller's ``input_shape``, the config's ``batch_input_shape`` and ``input_shape`` (without batch;
    beside ``batch_size``), the ``build_config`` around it. Every one that is present must be a legal shape.
    """
    found: list[tuple[str, Shape]] = []
    if argument is not None:
        found.append(("the argument input_shape", read_shape(argument, layer, at(layer.where, "input_shape"))))
    if config.get("batch_input_shape") is not None:
        where = at(layer.where, "batch_input_shape")
        found.append(("batch_input_shape", read_shape(config["batch_input_shape"], layer, where)))
    if config.get("input_shape") is not None:
        found.append(("the config's input_shape", _without_batch(config, layer)))
    elif config.get("batch_size") is not None:
        integer(config["batch_size"], at(layer.where, "batch_size"))
    built = _built(surroundings.get("build_config"), layer)
    if built is not None:
        found.append(("build_config", built))
    if not found:
        raise ConfigError(f"{layer.where}.input_shape is missing: pass input_shape={_expected(layer)}")
    (source, shape), *others = found
    return shape, tuple(_disagreement(source, shape, name, other) for name, other in others if other[1:] != shape[1:])


def _disagreement(source: str, shape: Shape, name: str, other: Shape) -> str:
    return f"{source} {shape} is used, {name} says {other}"


def _without_batch(config: Mapping[str, Any], layer: LayerConfig) -> Shape:
    where = at(layer.where, "input_shape")
    value = config["input_shape"]
    if not isinstance(value, list) or len(value) != layer.cls.rank + 1:
        fail(where, value, f"{layer.cls.rank + 1} entries {_expected(layer)} without the batch")
    batch = config.get("batch_size")
    if batch is not None:
        integer(batch, at(layer.where, "batch_size"))
    return read_shape([batch, *value], layer, where)


def _built(build: object, layer: LayerConfig) -> Shape | None:
    """``build_config`` is {"input_shape": [...]} in both generations, or empty."""
    if build is None:
        return None
    where = at(layer.where, "build_config")
    fields = mapping(build, where)
    for key in fields:
        if key != "input_shape":
            fail(at(where, key), fields[key], "only the key input_shape")
    value = fields.get("input_shape")
    return None if value is None else read_shape(value, layer, at(where, "input_shape"))
