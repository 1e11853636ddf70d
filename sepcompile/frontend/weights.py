"""A layer's weights, from every form they come in, as float32 arrays of the IR's shapes.

Forms: a mapping by name (Keras 3's ``kernel`` and Keras 2's ``depthwise_kernel`` both mean the depthwise kernel, with
or without ``:0`` and a path before it), a list in ``get_weights()`` order, the path of a .npz or .safetensors file, or
None: drawn from the config's initializers. Files that Keras wrote are read by ``frontend.model.single``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ConfigError, WeightError
from sepcompile.frontend.build import Sizes
from sepcompile.frontend.containers import read_file
from sepcompile.frontend.initializers import Initializer, draw
from sepcompile.frontend.layers import LayerConfig
from sepcompile.frontend.values import show
from sepcompile.ir.rounding import round_to
from sepcompile.ir.stages import Origin

Weights = dict[str, NDArray[np.float32]]

# A drawn or converted weight is held in memory several times over.
MAX_ELEMENTS = 2**28
_SUFFIX = re.compile(r":\d+$")


@dataclass(frozen=True)
class Slot:
    """One weight: its IR name and shape, Keras's names and shape, how it is drawn, and the dtype it is rounded to.

    ``transpose`` permutes the axes of Keras's array before it takes the IR's shape (alpha under channels_first).
    ``accepted`` are further shapes that mean the same without doubt.
    """

    name: str
    keras_names: tuple[str, ...]
    keras_shape: tuple[int, ...]
    shape: tuple[int, ...]
    initializer: Initializer
    dtype: str
    transpose: tuple[int, ...] | None = None
    accepted: tuple[tuple[int, ...], ...] = ()


def slots(layer: LayerConfig, channels: int, conv_output: Sizes, prefix: str = "") -> tuple[Slot, ...]:
    """The layer's weights in ``get_weights()`` order, for ``channels`` input channels.

    ``conv_output`` is the (H, W, C) that reaches the activation: PReLU's alpha has that shape.
    """
    kernel, m, dtype = layer.kernel_size, layer.depth_multiplier, layer.policy.compute
    initializers = dict(layer.initializers)
    wide = channels * m
    lifted = (*(1, *kernel)[-2:], channels, m)
    names = ("depthwise_kernel",) if layer.cls.separable else ("kernel", "depthwise_kernel")
    first = initializers["depthwise_initializer"]
    found = [Slot(f"{prefix}depthwise_kernel", names, (*kernel, channels, m), lifted, first, dtype)]
    if layer.filters is not None:
        flat = (wide, layer.filters)
        full = (1,) * layer.cls.rank + flat
        second = initializers["pointwise_initializer"]
        found.append(
            Slot(f"{prefix}pointwise_kernel", ("pointwise_kernel",), full, flat, second, dtype, None, (flat,))
        )
    if layer.use_bias:
        size = (layer.filters or wide,)
        found.append(Slot(f"{prefix}bias", ("bias",), size, size, initializers["bias_initializer"], dtype))
    if layer.activation.prelu is not None:
        found.append(_alpha_slot(layer, conv_output, prefix))
    return tuple(found)


def _alpha_slot(layer: LayerConfig, sizes: Sizes, prefix: str) -> Slot:
    prelu = layer.activation.prelu
    assert prelu is not None
    rank = layer.cls.rank
    spatial = sizes[2 - rank : 2]
    full = (sizes[2], *spatial) if layer.channels_first else (*spatial, sizes[2])
    if prelu.shared_axes and prelu.shared_axes[-1] > rank + 1:
        where = layer.activation.where
        raise ConfigError(f"{where}.config.shared_axes={prelu.shared_axes}: expected axes from 1 to {rank + 1}")
    shape = tuple(1 if axis in prelu.shared_axes else size for axis, size in enumerate(full, 1))
    transpose = (*range(1, rank + 1), 0) if layer.channels_first else None
    moved = tuple(shape[axis] for axis in transpose) if transpose else shape
    lifted = (1, *moved)[-3:]
    dtype = layer.activation.dtype or "float32"
    names = ("alpha", "prelu_alpha")
    return Slot(f"{prefix}prelu_alpha", names, shape, lifted, prelu.alpha_initializer, dtype, transpose)


def load(given: object, wanted: Sequence[Slot], where: Origin, seed: int) -> tuple[Weights, bool]:
    """The weights by IR name, and whether they were drawn.

    Raises ``WeightError`` for a missing, surplus, misshapen or non-finite array, and ``ConfigError`` where weights
    would have to be drawn and cannot be.
    """
    for slot in wanted:
        if math.prod(slot.keras_shape) > MAX_ELEMENTS:
            raise ConfigError(
                f"{where}: weight {slot.name!r} of shape {slot.keras_shape} has more than {MAX_ELEMENTS} elements"
            )
    if given is None:
        drawn = {
            slot.name: _finish(draw(slot.initializer, slot.keras_shape, (seed, index)), slot, where)
            for index, slot in enumerate(wanted)
        }
        return drawn, True
    arrays = _by_slot(given, wanted, where)
    return {slot.name: _finish(_array(arrays[slot.name], slot, where), slot, where) for slot in wanted}, False


def _by_slot(given: object, wanted: Sequence[Slot], where: Origin) -> dict[str, object]:
    if isinstance(given, str | os.PathLike):
        return _by_name(read_file(given), wanted, where)
    if isinstance(given, Mapping):
        return _by_name(given, wanted, where)
    if isinstance(given, list | tuple):
        if len(given) != len(wanted):
            names = ", ".join(f"{slot.keras_names[0]} {slot.keras_shape}" for slot in wanted)
            raise WeightError(f"{where}: weights has {len(given)} arrays, expected {len(wanted)}: {names}")
        return {slot.name: array for slot, array in zip(wanted, given, strict=True)}
    forms = "a dict, a list in get_weights() order, or the path of a .npz, .safetensors, .h5 or .keras file"
    raise WeightError(f"{where}: weights={show(given)}: expected {forms}")


def _by_name(given: Mapping[Any, Any], wanted: Sequence[Slot], where: Origin) -> dict[str, object]:
    names = {name: slot.name for slot in wanted for name in slot.keras_names}
    expected = ", ".join(slot.keras_names[0] for slot in wanted)
    result: dict[str, object] = {}
    try:
        items = list(given.items())
    except Exception as cause:
        raise WeightError(f"{where}: weights cannot be read: {show(cause)}") from None
    for key, array in items:
        short = _SUFFIX.sub("", key).rsplit("/", 1)[-1] if isinstance(key, str) else ""
        if short not in names:
            raise WeightError(f"{where}: weights has {show(key)}, expected {expected}")
        if names[short] in result:
            raise WeightError(f"{where}: weights names {short!r} twice")
        result[names[short]] = array
    missing = [slot.keras_names[0] for slot in wanted if slot.name not in result]
    if missing:
        raise WeightError(f"{where}: weights lacks {', '.join(missing)}; given: {show(sorted(map(str, given)))}")
    return result


def _array(value: object, slot: Slot, where: Origin) -> NDArray[Any]:
    """Any array-like of Keras's shape; shapes are never guessed by size."""
    label = f"{where}: weight {slot.keras_names[0]!r}"
    try:
        array = np.asarray(value)
    except Exception as cause:
        raise WeightError(f"{label}={show(value)} is not an array: {show(str(cause))}") from None
    if array.dtype.name == "bfloat16":  # of ml_dtypes, as Keras hands its weights over
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise WeightError(f"{label} has dtype {array.dtype}; expected real numbers")
    if array.shape != slot.keras_shape and array.shape not in slot.accepted:
        raise WeightError(f"{label} has shape {array.shape}, expected {slot.keras_shape}")
    return array.reshape(slot.keras_shape)


def _finish(array: NDArray[Any], slot: Slot, where: Origin) -> NDArray[np.float32]:
    """Rounded to the layer's dtype, checked for finiteness, and in the IR's shape."""
    rounded = round_to(array, slot.dtype)
    bad = int(rounded.size - np.count_nonzero(np.isfinite(rounded)))
    if bad:
        raise WeightError(
            f"{where}: weight {slot.keras_names[0]!r} has {bad} values that are NaN, infinite or beyond {slot.dtype}"
        )
    moved = rounded.transpose(slot.transpose) if slot.transpose else rounded
    return np.ascontiguousarray(moved.reshape(slot.shape))
