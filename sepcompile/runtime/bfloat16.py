"""bfloat16, which NumPy has not: the upper half of a float32, kept in uint16."""

from __future__ import annotations

import numpy as np


def to_bits(values: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16, to nearest and ties to even, as bits in uint16; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16).reshape(values.shape)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """bfloat16 in uint16 as float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def is_bits(dtype: np.dtype) -> bool:
    """Whether arrays of ``dtype`` hold bfloat16 as it is: as bits in uint16, or in the type of ml_dtypes."""
    return dtype == np.uint16 or (dtype.name == "bfloat16" and dtype.itemsize == 2)
