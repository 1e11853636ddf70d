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
    """An integral double as an int, NA (written as a string by jsonlite) as None."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value == "NA":
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
            key: item if key in _LISTS else (None if item == {} and key != "config" else _unboxed(item))
            for key, item in value.items()
        }
    return _unboxed(value[0]) if isinstance(value, list) and len(value) == 1 else value
