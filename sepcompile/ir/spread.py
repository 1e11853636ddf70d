"""How far an activation can carry an error: bounds for ``reference.error_bound``.

``spread(stage, z, e, eps)`` bounds ``|g(z') - f(z)|`` over all ``|z' - z| <= e``, where f is the exact activation and g
one computed in arithmetic with unit roundoff ``eps`` by a library whose elementary functions are good to a few ulps.
Where the interval straddles a jump of the function the bound is infinite: either side is right there.
"""

from __future__ import annotations

import numpy as np

from sepcompile.ir import activations
from sepcompile.ir.activations import Array
from sepcompile.ir.stages import Activation

# Ulps allowed to an elementary function (exp, tanh, erf, division, one or two of them in a row).
ULPS = 8.0
# f(z) = z * g(z): an absolute error of g is multiplied by z although f may be tiny.
_PRODUCTS = frozenset({"squareplus", "silu", "gelu", "gelu_tanh", "mish", "hard_silu", "tanh_shrink"})


def spread(stage: Activation, z: Array, e: Array, eps: float, alpha: Array | None = None) -> Array:
    """The bound, of the output's shape; see the module. ``alpha`` is PReLU's weight, broadcastable to z."""
    with np.errstate(all="ignore"):
        y = activations.apply(stage, z, alpha)
        if alpha is not None:
            return np.maximum(1.0, np.abs(alpha)) * e + ULPS * eps * np.abs(y)
        if stage.axis is not None:
            return _ROWWISE[stage.kind](stage, z, e, eps)
        return _carried(stage, z, e, y) + _own(stage, z, e, y, eps)


def _carried(stage: Activation, z: Array, e: Array, y: Array) -> Array:
    """The exact function's variation over the interval z - e .. z + e."""
    kind = activations.KINDS[stage.kind]
    bound = _slope(stage) * e
    if kind.monotone or kind.name == "celu":
        ends = [np.abs(activations.apply(stage, z + sign * e) - y) for sign in (-1.0, 1.0)]
        bound = np.maximum(*ends)
    if kind.breaks is not None:
        at = stage.param(kind.breaks)
        near = np.abs(z - at) <= e
        near = near | (np.abs(z + at) <= e) if kind.symmetric else near
        # Plain ReLU has its kink, but no jump, at its threshold 0.
        continuous = kind.name == "relu" and at == 0
        bound = bound if continuous else np.where(near & (e > 0), np.inf, bound)
    return bound


def _slope(stage: Activation) -> float:
    kind, params = activations.KINDS[stage.kind], dict(stage.params)
    if kind.lipschitz is not None and kind.name != "hard_sigmoid":
        return kind.lipschitz
    return max([1.0, *(abs(params[name]) for name in ("alpha", "negative_slope", "scale") if name in params)])


def _own(stage: Activation, z: Array, e: Array, y: Array, eps: float) -> Array:
    """Rounding inside the activation itself."""
    size = np.abs(z) + e
    if stage.kind in ("linear", "hard_shrink", "threshold"):
        return eps * np.abs(y)
    if stage.kind == "exponential":
        # Range reduction loses eps * z of the exponent where the library is simple.
        return np.asarray(eps * (ULPS + size) * np.exp(z + e))
    if stage.kind in _PRODUCTS:
        return ULPS * eps * (np.abs(y) + size)
    scale = max([1.0, *(abs(value) for _, value in stage.params if np.isfinite(value))])
    return ULPS * eps * (np.abs(y) + scale * np.minimum(size, 1.0))


def _row_max(e: Array, axis: int) -> Array:
    return np.asarray(np.max(e, axis=axis, keepdims=True))


def _softmax(stage: Activation, z: Array, e: Array, eps: float) -> Array:
    assert stage.axis is not None
    y = activations.apply(stage, z)
    depth = np.max(z, axis=stage.axis, keepdims=True) - z
    relative = np.expm1(2.0 * _row_max(e, stage.axis)) + eps * (z.shape[stage.axis] + ULPS + 2.0 * depth)
    return np.where(y == 0, 0.0, y * relative) + eps**2


def _log_softmax(stage: Activation, z: Array, e: Array, eps: float) -> Array:
    assert stage.axis is not None
    y = activations.apply(stage, z)
    return np.asarray(2.0 * _row_max(e, stage.axis) + eps * (ULPS * np.abs(y) + z.shape[stage.axis] + ULPS))


def _sparsemax(stage: Activation, z: Array, e: Array, eps: float) -> Array:
    """Keras's tau jumps where an element enters the support: rows with an undecided element have no bound."""
    axis = stage.axis
    assert axis is not None
    tau, margins = activations.sparsemax_threshold(z, axis)
    worst = _row_max(e, axis)
    count = np.sum(margins > 0, axis=axis, keepdims=True)
    length = z.shape[axis]
    rounding = eps * (length + ULPS) * (np.sum(np.abs(z), axis=axis, keepdims=True) + 1.0)
    undecided = np.any(np.abs(margins) <= 2.0 * (worst + rounding), axis=axis, keepdims=True)
    moved = (count + 1.0) / 2.0 * (worst + rounding) + eps * (length + ULPS) * np.abs(tau)
    return np.where(undecided, np.inf, e + moved + ULPS * eps * (np.abs(z) + np.abs(tau)))


def _glu(stage: Activation, z: Array, e: Array, eps: float) -> Array:
    assert stage.axis is not None
    (a, b), (ea, eb) = np.split(z, 2, axis=stage.axis), np.split(e, 2, axis=stage.axis)
    gate = activations.apply(activations.make("sigmoid"), b)
    gate_error = np.minimum(0.25 * eb, 1.0) + ULPS * eps
    return ea * (gate + gate_error) + np.abs(a) * gate_error + eps * np.abs(a)


_ROWWISE = {"softmax": _softmax, "log_softmax": _log_softmax, "sparsemax": _sparsemax, "glu": _glu}
