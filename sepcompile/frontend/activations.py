"""Keras's activations, as strings, serialized functions and serialized layers, onto the canonical kinds of the IR.

Axes are kept as Keras counts them (0 is the batch, negative from the end, in the layer's own data_format);
``build`` turns them into NHWC axes once the rank and the layout are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.dtypes import read_policy
from sepcompile.frontend.generation import Generation
from sepcompile.frontend.initializers import Initializer, read_initializer
from sepcompile.frontend.serialized import Wrapped, unwrap
from sepcompile.frontend.training import constraint, regularizer
from sepcompile.frontend.values import at, fail, integer, number, show, string, truth
from sepcompile.ir.activations import KINDS
from sepcompile.ir.stages import Origin

_MAX_NESTING = 4


@dataclass(frozen=True)
class PRelu:
    """What PReLU's weight needs: its initializer and the axes (as Keras counts them) along which it is shared."""

    alpha_initializer: Initializer
    shared_axes: tuple[int, ...]


@dataclass(frozen=True)
class ActivationConfig:
    """A checked activation.

    ``kind`` and ``params`` are the IR's; ``axis`` is Keras's, for row-wise kinds. ``dtype`` is the output dtype of an
    activation layer, which has a policy of its own, and None for a function. ``ignored`` holds fields without effect
    at inference, by name.
    """

    kind: str
    params: tuple[tuple[str, float], ...] = ()
    axis: int | None = None
    prelu: PRelu | None = None
    dtype: str | None = None
    where: Origin = field(default_factory=Origin)
    ignored: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_config(self) -> dict[str, Any]:
        """As plain data for a manifest."""
        params = {name: ("inf" if value == math.inf else value) for name, value in self.params}
        result: dict[str, Any] = {"kind": self.kind, "params": params}
        result |= {} if self.axis is None else {"axis": self.axis}
        result |= {} if self.dtype is None else {"dtype": self.dtype}
        if self.prelu is not None:
            result["shared_axes"] = list(self.prelu.shared_axes)
            result["alpha_initializer"] = self.prelu.alpha_initializer.to_config()
        return result


_SAME_NAME = (
    "softmax", "elu", "selu", "softplus", "softsign", "gelu", "tanh", "sigmoid", "exponential",
    "hard_sigmoid", "mish", "log_softmax",
)
_SAME_NAME_KERAS_3 = (
    "celu", "squareplus", "soft_shrink", "sparse_plus", "glu", "tanh_shrink", "sparse_sigmoid", "hard_silu",
    "hard_tanh", "hard_shrink", "log_sigmoid", "sparsemax",
)

# Names of keras.activations -> (kind, parameters other than the defaults).
_SHARED: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType(
    {
        "linear": ("linear", {}),
        "relu": ("relu", {}),
        "relu6": ("relu", {"max_value": 6.0}),
        "leaky_relu": ("relu", {"negative_slope": 0.2}),
        "silu": ("silu", {}),
        "swish": ("silu", {}),
        **{name: (name, {}) for name in _SAME_NAME},
    }
)
_KERAS_3: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType(
    {
        "hard_swish": ("hard_silu", {}),
        **{name: (name, {}) for name in _SAME_NAME_KERAS_3},
    }
)
FUNCTIONS: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType({**_SHARED, **_KERAS_3})


def read_activation(value: object, where: Origin, generation: Generation) -> ActivationConfig:
    """The activation that ``value`` names or serializes; None is linear.

    Raises ``ConfigError`` for a name that this Keras does not have, for a parameter that does not fit and for
    ``hard_sigmoid`` where it is not known which Keras means it, and ``UnsupportedError`` for code.
    """
    return _read(value, where, generation, 0)


def _read(value: object, where: Origin, generation: Generation, depth: int) -> ActivationConfig:
    if depth > _MAX_NESTING:
        raise ConfigError(f"{where}: Activation layers nested deeper than {_MAX_NESTING}")
    if value is None:
        return ActivationConfig("linear", where=where)
    if isinstance(value, str):
        return _from_name(value, where, generation, depth)
    if not isinstance(value, dict):
        fail(where, value, "None, a name, or a serialized function or activation layer")
    wrapped = unwrap(value, where)
    ignored = {key: value[key] for key in ("module", "registered_name", "build_config") if value.get(key) is not None}
    if wrapped.is_function or wrapped.class_name in FUNCTIONS:
        result = _function(wrapped.class_name, where, generation)
        if wrapped.config:
            # Keras looks the function up by name and never passes these on.
            note = f"{where}.config={show(wrapped.config)} has no effect: Keras drops the parameters of a function"
            result = replace(result, notes=(*result.notes, note))
            ignored["config"] = wrapped.config
    else:
        result = _layer(wrapped, where, generation, depth)
    return replace(result, ignored=(*sorted(ignored.items()), *result.ignored))


def _from_name(name: str, where: Origin, generation: Generation, depth: int) -> ActivationConfig:
    if name in _LAYERS and name != "Activation" and generation.major != 3:
        # Keras 2 alone reads a class name as an instance with default arguments, under its default dtype policy.
        return _layer(Wrapped(name, {}), where, replace(generation, name="keras2"), depth)
    return _function(name, where, generation)


def _function(name: str, where: Origin, generation: Generation) -> ActivationConfig:
    known = _SHARED if generation.major == 2 else FUNCTIONS
    if name not in known:
        extra = " ('threshold' needs arguments that a name cannot give)" if name == "threshold" else ""
        fail(where, name, f"a function of {generation.title}: {', '.join(sorted(known))}{extra}")
    kind, given = known[name]
    params = {**KINDS[kind].defaults(), **given}
    if kind == "hard_sigmoid":
        params["scale"] = _hard_sigmoid_scale(where, generation)
    axis = -1 if KINDS[kind].is_rowwise else None
    return ActivationConfig(kind, tuple(sorted(params.items())), axis, where=where)


def _hard_sigmoid_scale(where: Origin, generation: Generation) -> float:
    """Keras 3's is z/6 + 0.5 and Keras 2's is 0.2 z + 0.5 under one name, so a guess would be silently wrong."""
    if generation.major is None:
        raise ConfigError(
            f"{where}='hard_sigmoid': is z/6 + 0.5 in Keras 3 and 0.2*z + 0.5 in Keras 2; "
            "state which with keras_version='3' or '2'"
        )
    return 1.0 / 6.0 if generation.major == 3 else 0.2


# ---- activation layers ---------------------------------------------------------------------------------------------

_Built = tuple[str, dict[str, float]]


def _leaky_relu(config: dict[str, Any], where: Origin) -> _Built:
    if "alpha" in config and "negative_slope" in config:
        fail(at(where, "alpha"), config["alpha"], "either alpha (Keras 2) or negative_slope (Keras 3), not both")
    key = "alpha" if "alpha" in config else "negative_slope"
    return "relu", {"negative_slope": number(config.pop(key, 0.3), at(where, key), 0.0)}


def _relu(config: dict[str, Any], where: Origin) -> _Built:
    top = config.pop("max_value", None)
    params = {"max_value": math.inf if top is None else number(top, at(where, "max_value"), 0.0)}
    for key in ("negative_slope", "threshold"):
        params[key] = number(config.pop(key, 0.0), at(where, key), 0.0)
    return "relu", params


def _elu(config: dict[str, Any], where: Origin) -> _Built:
    return "elu", {"alpha": number(config.pop("alpha", 1.0), at(where, "alpha"))}


def _thresholded_relu(config: dict[str, Any], where: Origin) -> _Built:
    theta = number(config.pop("theta", 1.0), at(where, "theta"), 0.0)
    return "threshold", {"threshold": theta, "value": 0.0}


_LAYERS: Mapping[str, Callable[[dict[str, Any], Origin], _Built] | None] = MappingProxyType(
    {
        "LeakyReLU": _leaky_relu,
        "ReLU": _relu,
        "ELU": _elu,
        "ThresholdedReLU": _thresholded_relu,
        "Softmax": None,
        "PReLU": None,
        "Activation": None,
    }
)


def _layer(wrapped: Wrapped, where: Origin, generation: Generation, depth: int) -> ActivationConfig:
    name, config = wrapped.class_name, dict(wrapped.config)
    if name not in _LAYERS or (name == "ThresholdedReLU" and generation.major == 3):
        _refuse_layer(name, where, generation)
    inner = at(where, "config")
    ignored = _layer_fields(config, inner)
    dtype = read_policy(config.pop("dtype", None), at(inner, "dtype"), generation.major).compute
    result = _layer_result(name, config, inner, generation, depth)
    for key, value in config.items():
        fail(at(inner, key), value, f"no such parameter of {name}")
    if result.dtype not in (None, dtype):  # a layer inside an Activation layer: the value is cast to both in turn
        if dtype != "float32":
            message = f"{at(inner, 'dtype')} is {dtype} around a layer of {result.dtype}"
            raise UnsupportedError(f"{message}: rounding to both is not compiled; accepted: the same dtype, float32")
        dtype = str(result.dtype)
    return replace(result, dtype=dtype, where=where, ignored=(*ignored, *result.ignored))


def _refuse_layer(name: str, where: Origin, generation: Generation) -> None:
    names = sorted(key for key in _LAYERS if key != "ThresholdedReLU" or generation.major != 3)
    message = f"{where}={show(name)}: expected a function of keras.activations or a layer of {', '.join(names)}"
    raise UnsupportedError(message) if name == "BatchNormalization" else ConfigError(message)


def _layer_result(
    name: str, config: dict[str, Any], where: Origin, generation: Generation, depth: int
) -> ActivationConfig:
    if name == "Activation":
        if "activation" not in config:
            fail(at(where, "activation"), None, "the activation of the Activation layer")
        return _read(config.pop("activation"), at(where, "activation"), generation, depth + 1)
    if name == "Softmax":
        return ActivationConfig("softmax", (), _softmax_axis(config.pop("axis", -1), at(where, "axis")))
    if name == "PReLU":
        return _prelu(config, where)
    build = _LAYERS[name]
    assert build is not None
    kind, given = build(config, where)
    notes: tuple[str, ...] = ()
    if kind in ("threshold", "relu") and given.get("threshold") and generation.major != 3:
        notes = (f"{where}: NaN becomes 0 here as in Keras 3; Keras 2 multiplies by a mask and keeps NaN",)
    return ActivationConfig(kind, tuple(sorted({**KINDS[kind].defaults(), **given}.items())), notes=notes)


def _layer_fields(config: dict[str, Any], where: Origin) -> tuple[tuple[str, Any], ...]:
    """Fields of any Keras layer that say nothing about an activation; removed from ``config`` and returned."""
    readers: Mapping[str, Callable[[object, Origin], object]] = {
        "name": lambda value, at_: None if value is None else string(value, at_),
        "trainable": truth,
        "batch_input_shape": lambda value, _: value,
        "activity_regularizer": regularizer,
    }
    return tuple((f"config.{key}", readers[key](config.pop(key), at(where, key))) for key in readers if key in config)


def _softmax_axis(value: object, where: Origin) -> int:
    if isinstance(value, list):
        if len(value) != 1:
            raise UnsupportedError(f"{where}={show(value)}: softmax over several axes is not compiled; accepted: one")
        value = value[0]
    return integer(value, where, -8, 8)


def _prelu(config: dict[str, Any], where: Origin) -> ActivationConfig:
    initializer = read_initializer(config.pop("alpha_initializer", None), at(where, "alpha_initializer"), "zeros")
    penalty = regularizer(config.pop("alpha_regularizer", None), at(where, "alpha_regularizer"))
    projection = constraint(config.pop("alpha_constraint", None), at(where, "alpha_constraint"))
    ignored = (("config.alpha_regularizer", penalty), ("config.alpha_constraint", projection))
    shared, axes_field = config.pop("shared_axes", None), at(where, "shared_axes")
    items = [] if shared is None else shared if isinstance(shared, list) else [shared]
    axes = tuple(sorted({integer(item, axes_field, 1, 3) for item in items}))
    return ActivationConfig("prelu", prelu=PRelu(initializer, axes), ignored=ignored)
