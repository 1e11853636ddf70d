"""Elementwise activations as float32 tensor expressions, one for each elementwise kind of ``ir.activations``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm import tirx

from sepcompile.compute import mathfn as m
from sepcompile.compute.mathfn import f32
from sepcompile.ir.activations import GELU_TANH_SCALE, SELU_ALPHA, SELU_SCALE, SQRT_HALF
from sepcompile.ir.stages import Activation

Expr = Any
Params = Mapping[str, float]


def _relu(z: Expr, p: Params) -> Expr:
    threshold, slope, top = p["threshold"], p["negative_slope"], p["max_value"]
    y = tirx.Select(z > f32(threshold), z, f32(0.0)) if threshold != 0 else tirx.max(f32(0.0), z)
    if top != math.inf:
        # With a threshold below zero the part between it and zero is clipped too, as Keras does.
        y = tirx.min(f32(top), tirx.max(f32(0.0), y) if threshold < 0 else y)
    return y - f32(slope) * tirx.max(f32(0.0), f32(threshold) - z) if slope != 0 else y


def _elu(z: Expr, alpha: float) -> Expr:
    return tirx.Select(z > f32(0.0), z, f32(alpha) * m.expm1(tirx.min(f32(0.0), z)))


def _celu(z: Expr, p: Params) -> Expr:
    alpha = p["alpha"]
    return tirx.max(f32(0.0), z) + f32(alpha) * m.expm1(tirx.min(f32(0.0), z) / f32(alpha))


def _clip(z: Expr, low: float, high: float) -> Expr:
    return tirx.min(f32(high), tirx.max(f32(low), z))


def _soft_shrink(z: Expr, p: Params) -> Expr:
    t = f32(p["threshold"])
    return tirx.Select(z > t, z - t, tirx.Select(z < -t, z + t, f32(0.0)))


def _sparse_plus(z: Expr, _: Params) -> Expr:
    middle = (z + f32(1.0)) * (z + f32(1.0)) * f32(0.25)
    return tirx.Select(z <= f32(-1.0), f32(0.0), tirx.Select(z >= f32(1.0), z, middle))


def _gelu_tanh(z: Expr, _: Params) -> Expr:
    inner = f32(GELU_TANH_SCALE) * (z + f32(0.044715) * z * z * z)
    return f32(0.5) * z * (m.tanh(inner) + f32(1.0))


def _mish(z: Expr, _: Params) -> Expr:
    # tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2); it is 1 in float32 from z = 20, where e^2 is far from overflow.
    def ratio(e: Expr) -> Expr:
        return m.let(e * (e + f32(2.0)), lambda n: n / (n + f32(2.0)))

    return z * m.let(m.exp(tirx.min(f32(20.0), z)), ratio)


def _log_sigmoid(z: Expr, _: Params) -> Expr:
    return tirx.min(f32(0.0), z) - m.log1p_unit(m.exp(-m.absolute(z)))


_FUNCTIONS: Mapping[str, Callable[[Expr, Params], Expr]] = {
    "linear": lambda z, _: z,
    "relu": _relu,
    "elu": lambda z, p: _elu(z, p["alpha"]),
    "celu": _celu,
    "selu": lambda z, _: f32(SELU_SCALE) * _elu(z, SELU_ALPHA),
    "softplus": lambda z, _: m.softplus(z),
    "softsign": lambda z, _: z / (m.absolute(z) + f32(1.0)),
    "squareplus": lambda z, p: f32(0.5) * (z + tirx.sqrt(z * z + f32(p["b"]))),
    "soft_shrink": _soft_shrink,
    "hard_shrink": lambda z, p: tirx.Select(m.absolute(z) > f32(p["threshold"]), z, f32(0.0)),
    "sparse_plus": _sparse_plus,
    "silu": lambda z, _: z * m.sigmoid(z),
    "gelu": lambda z, _: f32(0.5) * z * (m.erf(z * f32(SQRT_HALF)) + f32(1.0)),
    "gelu_tanh": _gelu_tanh,
    "tanh": lambda z, _: m.tanh(z),
    "tanh_shrink": lambda z, _: z - m.tanh(z),
    "hard_tanh": lambda z, _: _clip(z, -1.0, 1.0),
    "threshold": lambda z, p: tirx.Select(z > f32(p["threshold"]), z, f32(p["value"])),
    "sigmoid": lambda z, _: m.sigmoid(z),
    "sparse_sigmoid": lambda z, _: f32(0.5) * _clip(z + f32(1.0), 0.0, 2.0),
    "exponential": lambda z, _: m.exp(z),
    "hard_sigmoid": lambda z, p: _clip(z * f32(p["scale"]) + f32(p["offset"]), 0.0, 1.0),
    "hard_silu": lambda z, _: z * _clip(z * f32(1.0 / 6.0) + f32(0.5), 0.0, 1.0),
    "mish": _mish,
    "log_sigmoid": _log_sigmoid,
}

# Formulas that read z once, which is by far the most common case: no binding needed.
_SINGLE_USE = frozenset({"linear", "hard_tanh", "sparse_sigmoid", "hard_sigmoid", "sigmoid", "tanh", "exponential"})


def apply(stage: Activation, z: Expr, alpha: Expr | None = None) -> Expr:
    """The activation of ``z`` (float32); ``alpha`` is PReLU's weight at this element."""
    if stage.kind == "prelu":
        return m.let(z, lambda z: tirx.max(f32(0.0), z) - alpha * tirx.max(f32(0.0), -z))
    if stage.kind in _SINGLE_USE:
        return _FUNCTIONS[stage.kind](z, dict(stage.params))
    return m.let(z, lambda z: _FUNCTIONS[stage.kind](z, dict(stage.params)))
