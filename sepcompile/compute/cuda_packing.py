"""Weights in the layouts that CUDA kernels read, packed once at compile time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.compute.cuda_record import CudaSchedule, between_dtype, padded_channels, padded_filters
from sepcompile.compute.form import Form
from sepcompile.ir.rounding import bfloat16_bits


def pack_weights(
    form: Form, record: CudaSchedule, weights: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """Each weight as the kernels read it: (kh, kw, CD), (CD, F) and biases, zero-padded to whole tiles.

    A padded channel's input is zero too, so a padded weight never meets an infinity.
    """
    channels = padded_channels(form, record)
    kernel = weights[form.depthwise.weight]
    kh, kw = kernel.shape[:2]
    packed: dict[str, NDArray[Any]] = {
        form.depthwise.weight: _padded(kernel.reshape(kh, kw, -1), (kh, kw, channels)),
    }
    last = channels
    if form.pointwise is not None:
        last = padded_filters(form, record)
        matrix = _padded(weights[form.pointwise.weight], (channels, last))
        packed[form.pointwise.weight] = _operands(matrix, between_dtype(form, record))
    if form.middle.bias:
        packed[form.middle.bias] = _padded(weights[form.middle.bias], (channels,))
    if form.final.bias:
        packed[form.final.bias] = _padded(weights[form.final.bias], (last,))
    packed |= {name: np.ascontiguousarray(weights[name], np.float32) for name, _ in form.alphas}
    return packed


def _operands(matrix: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """bfloat16 as its bits, which NumPy can hold. float32 stays: TF32 is rounded to where it is multiplied."""
    return bfloat16_bits(matrix) if dtype == "bfloat16" else matrix.astype(dtype)


def _padded(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    out = np.zeros(shape, np.float32)
    out[tuple(slice(0, size) for size in array.shape)] = array
    return out
