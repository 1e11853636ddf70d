"""Buffers for the peers: aligned to a cache line, and never an untouched page of zeros.

A buffer that was never written is one shared page of zeros to the kernel, and a peer that reads it looks faster than
it is: every input here holds data, and every output was written before it is timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sepcompile.bench.layers import Array

ALIGNMENT = 64


def aligned_like(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An array of ones whose first element starts a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.ones(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    array[...] = 1
    return array


def aligned(array: Array) -> Array:
    """A contiguous float32 copy that starts at a cache line."""
    copy = aligned_like(array.shape)
    copy[...] = array
    return copy


def nchw(array: Array) -> Array:
    """NHWC to NCHW."""
    return array.transpose(0, 3, 1, 2)


def nhwc(array: Array) -> Array:
    """NCHW to NHWC."""
    return array.transpose(0, 2, 3, 1)


def depthwise_oihw(depthwise: Array) -> Array:
    """Keras (kh, kw, C, m) to (C*m, 1, kh, kw), the layout of grouped convolutions."""
    kh, kw, channels, multiplier = depthwise.shape
    return np.ascontiguousarray(depthwise.reshape(kh, kw, channels * multiplier).transpose(2, 0, 1)[:, None])


def pointwise_oihw(pointwise: Array) -> Array:
    """Keras (C*m, F) to (F, C*m, 1, 1)."""
    return np.ascontiguousarray(pointwise.T[:, :, None, None])
