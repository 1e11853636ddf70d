"""Configs from R: doubles for integers, scalars as lists of length 1, NULL as null or {}, NA in shapes.

R's wrappers drop NULL arguments and turn the rest into Python's with ``as.integer()``; a config that was written with
plain jsonlite has not been through them, so the same is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INTEGERS = frozenset({"filters", "depth_multiplier", "batch_size", "groups", "rank", "implementation"})
_SIZES = frozenset({"kernel_size", "strides", "dilation_rate"})
_SHAPES = frozenset({"input_shape", "batch_input_shape"})


_SCALARS = ("filters", "depth_multiplier", "padding", "use_bias", "data_format", "name", "trainable", "batch_size")
# What get_config() always has and mostly is None. An empty activation or dtype alone may be a mistake instead.
_NULLS = ("_regularizer", "_constraint", "registered_name", "seed")


def is_boxed(config: Mapping[str, Any]) -> bool:
    """Whether jsonlite wrote this: 64 as [64] (unless told to unbox) or NULL as {}. No Keras does, for these keys."""
    scalars = [config.get(key) for key in _SCALARS]
    return any(isinstance(value, list) and len(value) == 1 for value in scalars) or {} in scalars or _has_null(config)


def _has_null(config: Mapping[str, Any]) -> bool:
    return any(
        isinstance(value, dict) and (_has_null(value) if value else key.endswith(_NULLS))
        for key, value in config.items()
    )


def envelope_from_r(outside: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """What stands around a config, as Python would have written it, and whether R wrote it."""
    names = [outside.get(key) for key in ("class_name", "module", "registered_name")]
    if not any(name == {} or (isinstance(name, list) and len(name) == 1) for name in names):
        return dict(outside), False
    found = {key: _value(key, value) for key, value in outside.items() if value != {}}
    build = outside.get("build_config")
    if isinstance(build, dict) and "input_shape" in build:
        found["build_config"] = {**build, "input_shape": _value("input_shape", build["input_shape"])}
    return found, True


def from_r(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as Python would have written it; None and {} (NULL) are absent."""
    present = {key: value for key, value in config.items() if value is not None and value != {}}
    return {key: _value(key, value) for key, value in present.items()}


def _value(key: str, value: Any) -> Any:
    if key in _SHAPES:
        return [_size(item) for item in value] if isinstance(value, list) else [_size(value)]
    if key in _SIZES:
        items = [_size(item) for item in value] if isinstance(value, list) else _size(value)
        return items[0] if isinstance(items, list) and len(items) == 1 else items
    scalar = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(scalar, dict):
        return _unboxed(scalar)
    return _size(scalar) if key in _INTEGERS else scalar


def _size(value: Any) -> Any:
    """An integral double as an int; NA (written as a string by jsonlite) and NULL ({}) as None."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value == "NA" or value == {}:
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Parameters that are lists in Python too.
_LISTS = frozenset({"shared_axes", "input_axes", "output_axes", "value"})


def _unboxed(value: Any) -> Any:
    """Serialized objects (initializers and so on): every scalar out of its list, NULL as None."""
    if isinstance(value, dict):
        if not value:
            return {}
        return {
            key: None if item == {} and key != "config" else item if key in _LISTS else _unboxed(item)
            for key, item in value.items()
        }
    return _unboxed(value[0]) if isinstance(value, list) and len(value) == 1 else value
