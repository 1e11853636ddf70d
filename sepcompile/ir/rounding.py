"""Rounding float32 to the narrower types that GPUs multiply, to nearest and ties to even; NumPy has neither type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPS_BFLOAT16 = 2.0**-8
EPS_TF32 = 2.0**-11
LARGEST_BFLOAT16 = float(np.array(0x7F7F0000, np.uint32).view(np.float32))


def bfloat16_bits(values: ArrayLike) -> NDArray[np.uint16]:
    """The bits of ``values`` (as float32) rounded to bfloat16: the upper half of a float32."""
    return (_rounded(values, 16) >> np.uint32(16)).astype(np.uint16)


def round_bfloat16(values: ArrayLike) -> NDArray[np.float32]:
    """``values`` rounded to bfloat16, as float32."""
    return _rounded(values, 16).view(np.float32)


def round_tf32(values: ArrayLike) -> NDArray[np.float32]:
    """``values`` rounded to TF32: float32 with 10 bits of mantissa."""
    return _rounded(values, 13).view(np.float32)


def round_to(values: ArrayLike, dtype: str) -> NDArray[np.float32]:
    """``values`` rounded to a dtype of the IR, as float32."""
    if dtype == "bfloat16":
        return round_bfloat16(values)
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype).astype(np.float32)


def _rounded(values: ArrayLike, dropped: int) -> NDArray[Any]:
    """Bits of float32 values with the lowest ``dropped`` ones rounded away. NaN stays NaN, with one bit that lasts."""
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(np.asarray(values), np.float32)
    bits = floats.view(np.uint32)
    half = np.uint32((1 << (dropped - 1)) - 1)
    odd = (bits >> np.uint32(dropped)) & np.uint32(1)
    rounded = (bits + half + odd) & np.uint32(~((1 << dropped) - 1) & 0xFFFFFFFF)
    quiet = (bits & np.uint32(0xFF800000)) | np.uint32(0x00400000)
    return np.where(np.isnan(floats), quiet, rounded).reshape(np.shape(values))
