"""The canonical activation functions: every function of ``keras.activations`` in Keras 2 and Keras 3, once.

``KINDS`` maps ``Activation.kind`` to its parameters, its shape behaviour and a float64 NumPy formula. Several Keras
names share one kind: ``relu6``, ``leaky_relu``, the layers ``ReLU``, ``LeakyReLU`` and ``ThresholdedReLU`` are all
``relu`` with parameters, and ``hard_sigmoid`` covers both generations (Keras 3 has slope 1/6, Keras 2 has 0.2).

NaN and Inf behave as in Keras 3 (the formulas of its JAX and TensorFlow backends): they pass through everywhere but in
the functions that Keras writes as a comparison with a constant on the other side (``soft_shrink``, ``hard_shrink``,
``threshold``, and ``relu`` with a threshold and no slope), where NaN compares false and takes the constant.
``silu``, ``gelu``, ``mish``, ``hard_silu`` (z times a factor that is 0) and ``squareplus`` give NaN for -Inf.

Source: keras 3.15.1, ``src/activations/activations.py`` and ``src/backend/jax/nn.py``; tf-keras 2.21 ``backend.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ConfigError
from sepcompile.ir.stages import Activation, Origin

Array = NDArray[np.float64]
Params = Mapping[str, float]
Elementwise = Callable[[Array, Params], Array]
Rowwise = Callable[[Array, int], Array]

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772
SQRT_HALF = math.sqrt(0.5)
GELU_TANH_SCALE = math.sqrt(2.0 / math.pi)

_erfc: Callable[[Array], Any] = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class Kind:
    """One canonical activation.

    ``params`` are its parameters with Keras's defaults, sorted by name. ``elementwise`` maps (z, params) to an array of
    z's shape; ``rowwise`` maps (z, axis) instead, and halves the axis when ``halves`` is true (``glu``). ``monotone``
    functions never decrease, so an interval maps onto the interval of its ends. ``lipschitz`` bounds the slope where
    it does not depend on parameters; None where it does or where there is none. ``breaks`` names the parameter at
    whose value (and its negative, when ``symmetric``) the function jumps. ``formula`` is for documentation.
    """

    name: str
    formula: str
    params: tuple[tuple[str, float], ...] = ()
    elementwise: Elementwise | None = None
    rowwise: Rowwise | None = None
    halves: bool = False
    weighted: bool = False
    monotone: bool = False
    lipschitz: float | None = None
    breaks: str | None = None
    symmetric: bool = False

    @property
    def is_rowwise(self) -> bool:
        """Whether the function runs along an axis rather than on each element."""
        return self.rowwise is not None

    def defaults(self) -> dict[str, float]:
        """The parameters with their default values."""
        return dict(self.params)


# ---- elementwise formulas, z is float64 ----------------------------------------------------------------------------


def _relu(z: Array, p: Params) -> Array:
    threshold, slope, top = p["threshold"], p["negative_slope"], p["max_value"]
    # np.where, not np.maximum, with a threshold: Keras compares there, so NaN becomes 0.
    y = np.where(z > threshold, z, 0.0) if threshold != 0 else np.maximum(z, 0.0)
    y = np.minimum(np.maximum(y, 0.0), top) if top != math.inf else y
    return y - slope * np.maximum(threshold - z, 0.0) if slope != 0 else y


def _elu(z: Array, p: Params) -> Array:
    return np.where(z > 0, z, p["alpha"] * np.expm1(np.minimum(z, 0.0)))


def _celu(z: Array, p: Params) -> Array:
    alpha = p["alpha"]
    return np.maximum(z, 0.0) + alpha * np.expm1(np.minimum(z, 0.0) / alpha)


def _selu(z: Array, _: Params) -> Array:
    return SELU_SCALE * _elu(z, {"alpha": SELU_ALPHA})


def _softplus(z: Array, _: Params = MappingProxyType({})) -> Array:
    return np.logaddexp(z, 0.0)


def _softsign(z: Array, _: Params) -> Array:
    return z / (np.abs(z) + 1.0)


def _squareplus(z: Array, p: Params) -> Array:
    return 0.5 * (z + np.sqrt(z * z + p["b"]))


def _soft_shrink(z: Array, p: Params) -> Array:
    t = p["threshold"]
    return np.where(z > t, z - t, np.where(z < -t, z + t, 0.0))


def _hard_shrink(z: Array, p: Params) -> Array:
    return np.where(np.abs(z) > p["threshold"], z, 0.0)


def _sparse_plus(z: Array, _: Params) -> Array:
    return np.where(z <= -1.0, 0.0, np.where(z >= 1.0, z, (z + 1.0) ** 2 / 4.0))


def _sigmoid(z: Array, _: Params = MappingProxyType({})) -> Array:
    # Two forms, so that exp never overflows; NaN goes through the second.
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def _silu(z: Array, _: Params) -> Array:
    return z * _sigmoid(z)


def _gelu(z: Array, _: Params) -> Array:
    return 0.5 * z * np.asarray(_erfc(-z * SQRT_HALF), dtype=np.float64)


def _gelu_tanh(z: Array, _: Params) -> Array:
    return 0.5 * z * (1.0 + np.tanh(GELU_TANH_SCALE * (z + 0.044715 * z**3)))


def _threshold(z: Array, p: Params) -> Array:
    return np.where(z > p["threshold"], z, p["value"])


def _sparse_sigmoid(z: Array, _: Params) -> Array:
    return 0.5 * np.clip(z + 1.0, 0.0, 2.0)


def _hard_sigmoid(z: Array, p: Params) -> Array:
    return np.clip(z * p["scale"] + p["offset"], 0.0, 1.0)


def _hard_silu(z: Array, _: Params) -> Array:
    return z * np.clip(z / 6.0 + 0.5, 0.0, 1.0)


def _mish(z: Array, _: Params) -> Array:
    return z * np.tanh(_softplus(z))


# ---- row-wise formulas ---------------------------------------------------------------------------------------------


def _softmax(z: Array, axis: int) -> Array:
    e = np.exp(z - np.max(z, axis=axis, keepdims=True))
    return np.asarray(e / np.sum(e, axis=axis, keepdims=True), dtype=np.float64)


def _log_softmax(z: Array, axis: int) -> Array:
    shifted = z - np.max(z, axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)), dtype=np.float64)


def sparsemax_threshold(z: Array, axis: int) -> tuple[Array, Array]:
    """Keras's tau and the margins ``sorted - (cumsum - 1)/r`` whose sign decides the support, along ``axis``.

    tau sums the cumulative sums over the support, as every Keras backend does: the published sparsemax takes only the
    last of them, so the two differ once the support holds more than one element.
    """
    ordered = -np.sort(-z, axis=axis)
    sums = np.cumsum(ordered, axis=axis)
    shape = [1] * z.ndim
    shape[axis] = -1
    ranks = np.arange(1, z.shape[axis] + 1, dtype=np.float64).reshape(shape)
    margins = ordered - (sums - 1.0) / ranks
    support = margins > 0
    count = np.sum(support, axis=axis, keepdims=True)
    tau = (np.sum(np.where(support, sums, 0.0), axis=axis, keepdims=True) - 1.0) / count
    return tau, margins


def _sparsemax(z: Array, axis: int) -> Array:
    return np.maximum(z - sparsemax_threshold(z, axis)[0], 0.0)


def _glu(z: Array, axis: int) -> Array:
    a, b = np.split(z, 2, axis=axis)
    return a * _sigmoid(b)


# ---- the table -----------------------------------------------------------------------------------------------------

_TABLE = (
    Kind("linear", "z", elementwise=lambda z, _: z, monotone=True, lipschitz=1.0),
    Kind(
        "relu",
        "min(z, max_value) where z > threshold, negative_slope * (z - threshold) elsewhere",
        (("max_value", math.inf), ("negative_slope", 0.0), ("threshold", 0.0)),
        _relu,
        breaks="threshold",
    ),
    Kind("elu", "z where z > 0, alpha * expm1(z) elsewhere", (("alpha", 1.0),), _elu),
    Kind("celu", "max(z, 0) + alpha * expm1(min(z, 0) / alpha)", (("alpha", 1.0),), _celu),
    Kind("selu", "1.0507009873554805 * elu(z, 1.6732632423543772)", (), _selu, monotone=True, lipschitz=1.7581),
    Kind("softplus", "log(1 + exp(z))", (), _softplus, monotone=True, lipschitz=1.0),
    Kind("softsign", "z / (|z| + 1)", (), _softsign, monotone=True, lipschitz=1.0),
    Kind("squareplus", "(z + sqrt(z*z + b)) / 2", (("b", 4.0),), _squareplus, lipschitz=1.0),
    Kind(
        "soft_shrink",
        "z - threshold above threshold, z + threshold below -threshold, 0 between",
        (("threshold", 0.5),),
        _soft_shrink,
        monotone=True,
        lipschitz=1.0,
    ),
    Kind(
        "hard_shrink",
        "z where |z| > threshold, 0 elsewhere",
        (("threshold", 0.5),),
        _hard_shrink,
        breaks="threshold",
        symmetric=True,
    ),
    Kind("sparse_plus", "0 to -1, (z + 1)^2 / 4 between, z from 1", (), _sparse_plus, monotone=True, lipschitz=1.0),
    Kind("silu", "z * sigmoid(z)", (), _silu, lipschitz=1.1),
    Kind("gelu", "z * erfc(-z / sqrt(2)) / 2", (), _gelu, lipschitz=1.13),
    Kind("gelu_tanh", "z * (1 + tanh(sqrt(2/pi) * (z + 0.044715 z^3))) / 2", (), _gelu_tanh, lipschitz=1.13),
    Kind("tanh", "tanh(z)", (), lambda z, _: np.tanh(z), monotone=True, lipschitz=1.0),
    Kind("tanh_shrink", "z - tanh(z)", (), lambda z, _: z - np.tanh(z), monotone=True, lipschitz=1.0),
    Kind("hard_tanh", "min(max(z, -1), 1)", (), lambda z, _: np.clip(z, -1.0, 1.0), monotone=True, lipschitz=1.0),
    Kind(
        "threshold",
        "z where z > threshold, value elsewhere",
        (("threshold", 0.0), ("value", 0.0)),
        _threshold,
        breaks="threshold",
    ),
    Kind("sigmoid", "1 / (1 + exp(-z))", (), _sigmoid, monotone=True, lipschitz=0.25),
    Kind("sparse_sigmoid", "min(max((z + 1) / 2, 0), 1)", (), _sparse_sigmoid, monotone=True, lipschitz=0.5),
    Kind("exponential", "exp(z)", (), lambda z, _: np.exp(z), monotone=True),
    Kind(
        "hard_sigmoid",
        "min(max(scale * z + offset, 0), 1)",
        (("offset", 0.5), ("scale", 1.0 / 6.0)),
        _hard_sigmoid,
        monotone=True,
        lipschitz=0.2,
    ),
    Kind("hard_silu", "z * min(max(z / 6 + 0.5, 0), 1)", (), _hard_silu, lipschitz=1.5),
    Kind("mish", "z * tanh(softplus(z))", (), _mish, lipschitz=1.1),
    Kind("log_sigmoid", "-softplus(-z)", (), lambda z, _: -_softplus(-z), monotone=True, lipschitz=1.0),
    Kind("prelu", "max(z, 0) - alpha * max(-z, 0), alpha a weight", weighted=True),
    Kind("softmax", "exp(z - max) / sum(exp(z - max))", rowwise=_softmax),
    Kind("log_softmax", "z - max - log(sum(exp(z - max)))", rowwise=_log_softmax),
    Kind("sparsemax", "max(z - tau, 0), Keras's tau", rowwise=_sparsemax),
    Kind("glu", "a * sigmoid(b), a and b the halves of the axis", rowwise=_glu, halves=True),
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _TABLE})


def make(
    kind: str,
    params: Mapping[str, float] | None = None,
    *,
    axis: int | None = None,
    weight: str | None = None,
    origin: Origin | None = None,
) -> Activation:
    """An ``Activation`` with every parameter of its kind filled in.

    ``axis`` is required for a row-wise kind and ``weight`` for ``prelu``. Raises ``ConfigError`` for an unknown kind or
    parameter, and where axis or weight is missing or does not belong.
    """
    where = origin or Origin()
    values = check(kind, params or {}, axis, weight, where)
    return Activation(kind, tuple(sorted(values.items())), axis, weight, where)


def check(kind: str, params: Mapping[str, float], axis: int | None, weight: str | None, where: Origin) -> Params:
    """All parameters of ``kind``, given ones over defaults; raises ``ConfigError`` as ``make`` does."""
    known = KINDS.get(kind)
    if known is None:
        raise ConfigError(f"{where}: activation kind {kind!r} is unknown; known are {', '.join(KINDS)}")
    values = known.defaults()
    for name, value in params.items():
        if name not in values:
            raise ConfigError(f"{where}: activation {kind!r} has no parameter {name!r}; it has {sorted(values)}")
        if math.isnan(value) or (math.isinf(value) and name != "max_value"):
            raise ConfigError(f"{where}: parameter {name}={value} of activation {kind!r} must be a finite number")
        values[name] = float(value)
    if kind == "celu" and values["alpha"] == 0:
        raise ConfigError(f"{where}: parameter alpha=0 of activation 'celu' must not be zero")
    if known.is_rowwise != (axis is not None):
        rule = "needs" if axis is None else "has no"
        raise ConfigError(f"{where}: activation {kind!r} {rule} axis, given axis={axis}")
    if known.weighted != (weight is not None):
        raise ConfigError(f"{where}: activation {kind!r} with weight={weight}: only 'prelu' has one, and it must")
    return values


def apply(stage: Activation, z: Array, alpha: Array | None = None) -> Array:
    """The activation of ``z`` (float64, any layout that ``stage.axis`` refers to) in float64.

    ``alpha`` is PReLU's weight, broadcastable to ``z``. Only ``glu`` changes the shape.
    """
    kind = KINDS[stage.kind]
    with np.errstate(all="ignore"):
        if kind.weighted:
            if alpha is None:
                raise ConfigError(f"{stage.origin}: activation 'prelu' needs its weight {stage.weight!r}")
            return np.maximum(z, 0.0) - alpha * np.maximum(-z, 0.0)
        if kind.rowwise is not None:
            assert stage.axis is not None
            return kind.rowwise(z, stage.axis)
        assert kind.elementwise is not None
        return kind.elementwise(z, dict(stage.params))
