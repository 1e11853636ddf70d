"""Initializers: every serialized form of every Keras initializer, and weights drawn from their distributions.

Keras's numbers cannot be reproduced from a config (the seed is usually None and the generators differ between
backends), so the generator here is NumPy's, seeded by the caller and by the initializer's own seed.
Source: keras 3.15.1, ``src/initializers/random_initializers.py`` and ``constant_initializers.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ConfigError
from sepcompile.frontend.serialized import ObjectClass, Wrapped, read_object, snake_case, unwrap
from sepcompile.frontend.values import at, choice, fail, integer, number
from sepcompile.ir.stages import Origin

# Standard deviation of a unit normal cut at two of its standard deviations.
TRUNCATED_STDDEV = 0.87962566103423978
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Initializer:
    """A checked initializer: ``class_name`` as Keras spells it and every parameter of its ``config``."""

    class_name: str
    config: Mapping[str, Any]
    where: Origin

    def to_config(self) -> dict[str, Any]:
        """As {"class_name", "config"} of plain data."""
        return {"class_name": self.class_name, "config": dict(self.config)}


def _float(value: object, where: Origin) -> float:
    return number(value, where)


def _positive(value: object, where: Origin) -> float:
    return number(value, where, 0.0, exclusive=True)


def _stddev(value: object, where: Origin) -> float:
    return number(value, where, 0.0)


def _mode(value: object, where: Origin) -> str:
    return choice(value, where, ("fan_in", "fan_out", "fan_avg"))


def _distribution(value: object, where: Origin) -> str:
    names = ("uniform", "truncated_normal", "untruncated_normal", "normal")
    name = choice(value, where, names, any_case=True)
    return "truncated_normal" if name == "normal" else name


def _seed(value: object, where: Origin) -> int | None:
    """None, an int, or the serialized ``SeedGenerator`` of Keras 3."""
    if isinstance(value, dict):
        wrapped = unwrap(value, where)
        if wrapped.class_name != "SeedGenerator" or set(wrapped.config) - {"seed", "name"}:
            fail(where, value, "None, an integer or a SeedGenerator")
        return _seed(wrapped.config.get("seed"), at(where, "config.seed"))
    return None if value is None else integer(value, where, -(2**63), 2**63 - 1)


def _dtype(value: object, where: Origin) -> str | None:
    """TensorFlow 1 style initializers carry a dtype, which the layer overrides."""
    if value is not None and not isinstance(value, str):
        fail(where, value, "None or a dtype name")
    return value


def _axes(value: object, where: Origin) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        fail(where, value, "None or a list of axes")
    return [integer(axis, at(where, str(index)), -8, 8) for index, axis in enumerate(value)]


def _constant(value: object, where: Origin) -> float | list[Any]:
    return [_constant(item, where) for item in value] if isinstance(value, list) else number(value, where)


_TAIL = {"seed": (None, _seed), "dtype": (None, _dtype), "partition_info": (None, _dtype)}
_FANS = {**_TAIL, "input_axes": (None, _axes), "output_axes": (None, _axes)}
_NORMAL = {"mean": (0.0, _float), "stddev": (0.05, _stddev), **_TAIL}
_GAIN = {"gain": (1.0, _float), "dtype": (None, _dtype)}

# The preset families are VarianceScaling with these (scale, mode, distribution).
_PRESETS: Mapping[str, tuple[float, str, str]] = MappingProxyType(
    {
        "GlorotUniform": (1.0, "fan_avg", "uniform"),
        "GlorotNormal": (1.0, "fan_avg", "truncated_normal"),
        "HeUniform": (2.0, "fan_in", "uniform"),
        "HeNormal": (2.0, "fan_in", "truncated_normal"),
        "LecunUniform": (1.0, "fan_in", "uniform"),
        "LecunNormal": (1.0, "fan_in", "truncated_normal"),
    }
)
_CLASSES = (
    ObjectClass("Zeros", {"dtype": (None, _dtype)}),
    ObjectClass("Ones", {"dtype": (None, _dtype)}),
    ObjectClass("Constant", {"value": (0.0, _constant), "dtype": (None, _dtype)}),
    ObjectClass("RandomUniform", {"minval": (-0.05, _float), "maxval": (0.05, _float), **_TAIL}),
    ObjectClass("RandomNormal", _NORMAL),
    ObjectClass("TruncatedNormal", _NORMAL),
    ObjectClass(
        "VarianceScaling",
        {
            "scale": (1.0, _positive),
            "mode": ("fan_in", _mode),
            "distribution": ("truncated_normal", _distribution),
            **_FANS,
        },
    ),
    *(ObjectClass(name, _FANS) for name in _PRESETS),
    ObjectClass("Orthogonal", {**_GAIN, "seed": (None, _seed)}),
    ObjectClass("Identity", _GAIN),
)
_ALIASES = {
    "zero": "Zeros",
    "one": "Ones",
    "uniform": "RandomUniform",
    "normal": "RandomNormal",
    "IdentityInitializer": "Identity",
    "OrthogonalInitializer": "Orthogonal",
}
_BY_NAME = {cls.name: cls for cls in _CLASSES}
INITIALIZERS: Mapping[str, ObjectClass] = MappingProxyType(
    {
        **_BY_NAME,
        **{snake_case(name): cls for name, cls in _BY_NAME.items()},
        **{alias: _BY_NAME[name] for alias, name in _ALIASES.items()},
    }
)


def read_initializer(value: object, where: Origin, default: str) -> Initializer:
    """The initializer that ``value`` serializes; None means ``default``, as in Keras."""
    if not (value is None or isinstance(value, str | dict)):
        fail(where, value, "None, the name of a Keras initializer or its serialized dict")
    wrapped: Wrapped = read_object(default if value is None else value, INITIALIZERS, where, "initializer")
    config = {key: item for key, item in wrapped.config.items() if item is not None}
    return Initializer(wrapped.class_name, MappingProxyType(config), where)


def draw(initializer: Initializer, shape: Sequence[int], seed: Sequence[int]) -> NDArray[np.float32]:
    """A weight of Keras's ``shape`` (its own axes: (kh, kw, C, m), (1, 1, C*m, F) or (F,)).

    ``seed`` and the initializer's own seed determine the numbers. Raises ``ConfigError`` where Keras cannot draw either
    (an orthogonal bias, an identity kernel, a constant of another shape).
    """
    own = initializer.config.get("seed")
    words = [*seed, *((0, 0) if own is None else (1, own % 2**64))]
    generator = np.random.default_rng(words)
    return np.asarray(_values(initializer, tuple(shape), generator), dtype=np.float32)


def _values(initializer: Initializer, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    name, config = initializer.class_name, initializer.config
    if name in ("Zeros", "Ones"):
        return np.full(shape, float(name == "Ones"))
    if name == "Constant":
        return _broadcast(initializer, shape)
    if name == "RandomUniform":
        low, high = config["minval"], config["maxval"]
        return np.asarray(low + (high - low) * generator.random(shape))
    if name == "RandomNormal":
        return np.asarray(config["mean"] + config["stddev"] * generator.standard_normal(shape))
    if name == "TruncatedNormal":
        return np.asarray(config["mean"] + config["stddev"] * _truncated(shape, generator))
    if name == "Orthogonal":
        return _orthogonal(initializer, shape, generator)
    if name == "Identity":
        raise ConfigError(f"{initializer.where}: 'Identity' makes 2-D matrices only, this weight has shape {shape}")
    return _scaled(initializer, shape, generator)


def _broadcast(initializer: Initializer, shape: tuple[int, ...]) -> Array:
    value = initializer.config["value"]
    try:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), shape).copy()
    except ValueError:
        raise ConfigError(f"{initializer.where}: a constant that does not broadcast to shape {shape}") from None


def _scaled(initializer: Initializer, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    config = initializer.config
    preset = _PRESETS.get(initializer.class_name)
    scale, mode, distribution = preset or (config["scale"], config["mode"], config["distribution"])
    fan_in, fan_out = _fans(initializer, shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2.0}[mode]
    variance = scale / max(1.0, fan)
    if distribution == "truncated_normal":
        return math.sqrt(variance) / TRUNCATED_STDDEV * _truncated(shape, generator)
    if distribution == "untruncated_normal":
        return math.sqrt(variance) * generator.standard_normal(shape)
    return math.sqrt(3.0 * variance) * (2.0 * generator.random(shape) - 1.0)


def _fans(initializer: Initializer, shape: tuple[int, ...]) -> tuple[float, float]:
    """Keras's fans: the depthwise kernel (*k, C, m) counts C as its inputs and m as its outputs."""
    inputs, outputs = initializer.config.get("input_axes"), initializer.config.get("output_axes")
    if inputs is not None and outputs is not None:
        try:
            return math.prod(shape[axis] for axis in inputs), math.prod(shape[axis] for axis in outputs)
        except IndexError:
            raise ConfigError(f"{initializer.where}: input_axes={inputs} output_axes={outputs} of {shape}") from None
    if len(shape) == 1:
        return shape[0], shape[0]
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def _truncated(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Unit normal numbers, drawn again while beyond two standard deviations."""
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


def _orthogonal(initializer: Initializer, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    if len(shape) < 2:
        raise ConfigError(f"{initializer.where}: 'Orthogonal' needs at least 2 axes, this weight has shape {shape}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    q = q.T if rows < columns else q
    return np.asarray(initializer.config["gain"] * q.reshape(shape), dtype=np.float64)
