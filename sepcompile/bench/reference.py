"""The float64 output every peer is checked against: short, slow and independent of the compiler under test."""

from __future__ import annotations

import numpy as np

from sepcompile.bench.layers import Array, CaseData, Geometry


def activate(name: str, y: Array) -> Array:
    """The activations of the suites, in the precision of ``y``."""
    if name == "relu":
        return np.asarray(np.maximum(y, 0))
    if name == "relu6":
        return np.asarray(np.clip(y, 0, 6))
    if name == "elu":
        return np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
    if name == "silu":
        return np.asarray(y / (1 + np.exp(-y)))
    if name == "hard_silu":
        return np.asarray(y * np.clip(y / 6 + 0.5, 0, 1))
    return y


def evaluate(geo: Geometry, data: CaseData) -> Array:
    """The layer's output, NHWC float64."""
    pads = ((0, 0), *zip(geo.pad_before, geo.pad_after, strict=True), (0, 0))
    x = np.pad(activate(geo.around.before, data.x.astype(np.float64)), pads)
    out_h, out_w = geo.out_size
    y: Array = np.zeros((geo.batch, out_h, out_w, geo.channels, geo.depth_multiplier))
    for i in range(geo.kernel[0]):
        rows = slice(i * geo.dilation[0], i * geo.dilation[0] + (out_h - 1) * geo.strides[0] + 1, geo.strides[0])
        for j in range(geo.kernel[1]):
            left = j * geo.dilation[1]
            columns = slice(left, left + (out_w - 1) * geo.strides[1] + 1, geo.strides[1])
            y += x[:, rows, columns, :, None] * data.depthwise[i, j].astype(np.float64)
    y = y.reshape(geo.batch, out_h, out_w, geo.mid_channels)
    if data.middle_bias is not None:
        y = y + data.middle_bias.astype(np.float64)
    y = activate(geo.around.middle, y)
    if data.pointwise is not None:
        y = y @ data.pointwise.astype(np.float64)
    if data.bias is not None:
        y = y + data.bias.astype(np.float64)
    y = activate(geo.activation, y)
    if data.residual is not None:
        y = y + data.residual.astype(np.float64)
    return activate(geo.around.last, y)


def error_of(got: Array, expected: Array) -> float:
    """Largest absolute difference over the largest absolute value; infinite for a wrong shape or a non-number."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(got.astype(np.float64) - expected)) / max(float(np.max(np.abs(expected))), 1e-30))
