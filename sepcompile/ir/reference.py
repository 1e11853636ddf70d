"""The float64 NumPy interpreter of programs: the oracle of tests, self-tests and the tuner's checks.

``evaluate`` gives the exact result up to float64 rounding, ``error_bound`` what a kernel in a narrower type may differ
from it. Both take and return arrays in the user's layout and rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepcompile.errors import ConfigError, InputError, WeightError
from sepcompile.ir import activations
from sepcompile.ir.activations import Array
from sepcompile.ir.rounding import EPS_BFLOAT16, EPS_TF32
from sepcompile.ir.shapes import NCHW, NHWC, Layout, permute
from sepcompile.ir.spread import spread
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Depthwise,
    Pad,
    Pointwise,
    Program,
    Residual,
    ScaleShift,
    Stage,
    Transpose,
    is_channels_first,
)

Weights = Mapping[str, NDArray[Any]]
EPS_FLOAT32 = 2.0**-24
EPS_FLOAT16 = 2.0**-11
# Rounding of a weight and of a bias beside the terms of the sum itself, and of a folded scale.
EXTRA_TERMS = 4


def evaluate(program: Program, weights: Weights, x: ArrayLike, residual: ArrayLike | None = None) -> Array:
    """The program's output for ``x`` in float64.

    ``x`` has ``program.input.shape`` with any batch where that is None (0 too), ``residual`` the output's; it is for
    programs with a ``Residual`` stage. ``weights`` have the shapes of ``shapes.weight_shapes``. Raises ``InputError``
    for another shape and ``WeightError`` for a missing weight.
    """
    value, layout = _lifted(program, x), _first_layout(program)
    second = _second(program, value.shape[0], residual)
    with np.errstate(all="ignore"):
        for stage in program.stages:
            value = apply_stage(stage, value, weights, layout, second)
            layout = permute(layout, stage.perm) if isinstance(stage, Transpose) else layout
    return _unlifted(program, value, layout)


def roundoffs(program: Program, precision: str = "float32") -> tuple[float, float]:
    """``eps`` and ``products`` of ``error_bound`` for kernels of ``program``.

    They sum in float32; float16's bound takes its own roundoff for everything, which covers its narrow range as well.
    """
    dtypes = (program.input.dtype, program.output.dtype)
    if "float16" in dtypes:
        return EPS_FLOAT16, 0.0
    if "bfloat16" in dtypes:
        return EPS_FLOAT32, EPS_BFLOAT16
    return EPS_FLOAT32, EPS_TF32 if precision == "tf32" else 0.0


def error_bound(
    program: Program,
    weights: Weights,
    x: ArrayLike,
    eps: float = EPS_FLOAT32,
    residual: ArrayLike | None = None,
    products: float = 0.0,
) -> Array:
    """A bound on ``|computed - evaluate(program, weights, x)|`` for arithmetic with unit roundoff ``eps``.

    Sums of n terms in any order lose at most about ``n * eps * sum(|x| |k|)``; the loss is carried through the
    following stages by the absolute values of their weights and by each activation's variation. It is infinite where
    an activation's jump or an overflow of the narrow type may fall either way, and 0 where the result is not finite
    (NaN and Inf are exact). Rounding of the input and of the output to a narrow edge dtype is included for
    ``eps >= EPS_FLOAT16``, and of the output to bfloat16. ``products`` is the unit roundoff of the type that both
    operands of a matrix product are rounded to before they are multiplied, 0 where they are not.
    """
    value, layout = _lifted(program, x), _first_layout(program)
    second = _second(program, value.shape[0], residual)
    error = np.zeros_like(value)
    largest, tiny = _range(eps)
    with np.errstate(all="ignore"):
        for stage in program.stages:
            size, error = np.abs(value) + error, _stage_error(stage, value, error, weights, layout, eps, second)
            if products and isinstance(stage, Pointwise):
                rounding = products * (2.0 + products)
                error = error * (1.0 + rounding) + rounding * (size @ np.abs(_weight(weights, stage.weight, stage)))
            value = apply_stage(stage, value, weights, layout, second)
            error = np.where(np.isfinite(value), error + tiny, 0.0)
            error = np.where(np.abs(value) + error >= largest, np.where(np.isfinite(value), np.inf, 0.0), error)
            layout = permute(layout, stage.perm) if isinstance(stage, Transpose) else layout
        if program.output.dtype == "bfloat16":
            error = error + EPS_BFLOAT16 * (np.abs(value) + error)
        error = np.where(np.isfinite(value), error + eps * np.abs(value), 0.0)
    return _unlifted(program, error, layout)


def _range(eps: float) -> tuple[float, float]:
    """The largest number of the type with this roundoff, and what one underflow may lose in a stage."""
    return (65504.0, 2.0**-22) if eps >= EPS_FLOAT16 else (float(np.finfo(np.float32).max), 2.0**-120)


def apply_stage(
    stage: Stage, value: Array, weights: Weights, layout: Layout = NHWC, residual: Array | None = None
) -> Array:
    """One stage on a float64 array of rank 4, NHWC unless ``layout`` says otherwise; ``residual`` is of rank 4 too."""
    if isinstance(stage, Transpose):
        return np.ascontiguousarray(np.transpose(value, stage.perm))
    if isinstance(stage, Pad):
        return _pad(stage, value)
    if isinstance(stage, Depthwise):
        return _depthwise(stage, value, _weight(weights, stage.weight, stage))
    if isinstance(stage, Pointwise):
        return np.asarray(value @ _weight(weights, stage.weight, stage))
    if isinstance(stage, Bias):
        return np.asarray(value + _weight(weights, stage.weight, stage))
    if isinstance(stage, ScaleShift):
        scaled = value * _weight(weights, stage.scale, stage)
        return np.asarray(scaled + _weight(weights, stage.shift, stage))
    if isinstance(stage, Residual):
        assert residual is not None
        return np.asarray(value + residual)
    return activations.apply(stage, value, _alpha(stage, weights, layout))


def _stage_error(
    stage: Stage, value: Array, error: Array, weights: Weights, layout: Layout, eps: float, residual: Array | None
) -> Array:
    if isinstance(stage, Transpose | Pad):
        return apply_stage(stage, error, weights, layout)
    size = np.abs(value) + error
    if isinstance(stage, Depthwise):
        kernel = np.abs(_weight(weights, stage.weight, stage))
        terms = kernel.shape[0] * kernel.shape[1] + EXTRA_TERMS
        return np.asarray(_depthwise(stage, error, kernel) + terms * eps * _depthwise(stage, size, kernel))
    if isinstance(stage, Pointwise):
        matrix = np.abs(_weight(weights, stage.weight, stage))
        terms = matrix.shape[0] + EXTRA_TERMS
        return np.asarray(error @ matrix + terms * eps * (size @ matrix))
    if isinstance(stage, Bias):
        return np.asarray(error + 2.0 * eps * (size + np.abs(_weight(weights, stage.weight, stage))))
    if isinstance(stage, ScaleShift):
        scale = np.abs(_weight(weights, stage.scale, stage))
        shift = np.abs(_weight(weights, stage.shift, stage))
        return np.asarray(error * scale + 3.0 * eps * (size * scale + shift))
    if isinstance(stage, Residual):
        assert residual is not None
        return np.asarray(error + 2.0 * eps * (size + np.abs(residual)))
    return spread(stage, value, error, eps, _alpha(stage, weights, layout))


def _weight(weights: Weights, name: str, stage: Stage) -> Array:
    if name not in weights:
        raise WeightError(f"{stage.origin}: weight {name!r} is missing; given are {sorted(weights)}")
    return np.asarray(weights[name], dtype=np.float64)


def _alpha(stage: Activation, weights: Weights, layout: Layout) -> Array | None:
    """PReLU's alpha, an NHWC weight, turned into the layout that the stage runs in."""
    if stage.weight is None:
        return None
    return np.transpose(_weight(weights, stage.weight, stage)[np.newaxis], layout)


def _pad(stage: Pad, value: Array) -> Array:
    (top, left), (bottom, right) = stage.before, stage.after
    return np.pad(value, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _depthwise(stage: Depthwise, value: Array, kernel: Array) -> Array:
    """A sum over the kernel's taps: each is one strided view of the input times one (C, m) slice of the kernel."""
    n, h, w, c = value.shape
    (kh, kw), (sh, sw), (dh, dw) = stage.kernel_size, stage.strides, stage.dilation_rate
    rows, columns = (h - (kh - 1) * dh - 1) // sh + 1, (w - (kw - 1) * dw - 1) // sw + 1
    out = np.zeros((n, rows, columns, c, stage.depth_multiplier))
    for ky in range(kh):
        for kx in range(kw):
            y, x = ky * dh, kx * dw
            view = value[:, y : y + (rows - 1) * sh + 1 : sh, x : x + (columns - 1) * sw + 1 : sw]
            out += view[..., np.newaxis] * kernel[ky, kx]
    return out.reshape(n, rows, columns, c * stage.depth_multiplier)


def _first_layout(program: Program) -> Layout:
    return NCHW if is_channels_first(program) else NHWC


def _lifted(program: Program, x: ArrayLike) -> Array:
    try:
        value = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise InputError(f"{program.name}: the input is not an array of numbers: {cause}") from None
    expected = program.input.shape
    if value.ndim != len(expected) or any(b not in (None, a) for a, b in zip(value.shape, expected, strict=True)):
        raise InputError(f"{program.name}: input of shape {value.shape}, expected {expected}")
    return np.expand_dims(value, 2 if is_channels_first(program) else 1) if value.ndim == 3 else value


def _second(program: Program, batch: int, residual: ArrayLike | None) -> Array | None:
    """The second input, rank 4 (1-D tensors with H = 1)."""
    if program.residual is None and residual is None:
        return None
    if program.residual is None or residual is None:
        needed = "has one input" if program.residual is None else "needs a residual"
        raise InputError(f"{program.name}: the program {needed}")
    value = np.asarray(residual, dtype=np.float64)
    expected = (batch, *program.residual.shape[1:])
    if value.shape != expected:
        raise InputError(f"{program.name}: residual of shape {value.shape}, expected {expected}")
    return np.expand_dims(value, 1) if value.ndim == 3 else value


def _unlifted(program: Program, value: Array, layout: Layout) -> Array:
    result = value.squeeze(layout.index(1)) if len(program.input.shape) == 3 else value
    if result.shape[1:] != program.output.shape[1:]:
        raise ConfigError(f"{program.name}: computed {result.shape}, but output.shape={program.output.shape}")
    return result
