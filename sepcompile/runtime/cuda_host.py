"""NumPy arrays on their way to and from a GPU: as the kernels read and write them, bfloat16 as bits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .bfloat16 import from_bits, is_bits, to_bits
from .cuda_driver import Driver
from .inputs import TensorSpec, as_input, check_out, check_shape
from .residual import checked_residual


def stored_input(x: object, spec: TensorSpec, layer: str, what: str = "x") -> np.ndarray:
    """``x`` as it lies in a GPU's memory; for bfloat16, bits stay and floats are rounded. Raises ``InputError``."""
    if spec.bfloat16 and isinstance(x, np.ndarray) and is_bits(x.dtype):
        check_shape(x.shape, spec, layer, what)
        return np.require(x, requirements=["C", "A"]).view(np.uint16)
    array = as_input(x, spec, layer, what)
    return to_bits(array) if spec.bfloat16 else array


def stored_residual(residual: object, spec: TensorSpec, shape: tuple[int, ...], layer: str) -> np.ndarray:
    """A second input of the output's ``shape``, as ``stored_input``. Raises ``InputError``."""
    if not (spec.bfloat16 and isinstance(residual, np.ndarray) and is_bits(residual.dtype)):
        residual = checked_residual(residual, spec, shape, layer)
    return stored_input(residual, replace(spec, shape=shape), layer, "residual")


def host_output(x: object, out: object, shape: tuple[int, ...], spec: TensorSpec, layer: str) -> np.ndarray:
    """``out``, checked, or a new array; of a bfloat16 layer's in the form of ``x``: bits, or else float32."""
    if out is None:
        kept = spec.bfloat16 and isinstance(x, np.ndarray) and is_bits(x.dtype)
        return np.empty(shape, x.dtype if kept else spec.dtype)  # type: ignore[attr-defined]
    kept = spec.bfloat16 and isinstance(out, np.ndarray) and is_bits(out.dtype)
    check_out(out, shape, out.dtype if kept else spec.dtype, layer)  # type: ignore[attr-defined]
    assert isinstance(out, np.ndarray)
    return out


def download(lib: Driver, pointer: int, out: np.ndarray, spec: TensorSpec) -> None:
    """Copies a result from the GPU into ``out``, bfloat16 as float32 unless ``out`` takes bits."""
    if spec.bfloat16 and not is_bits(out.dtype):
        bits = np.empty(out.shape, np.uint16)
        lib.download(bits.ctypes.data, pointer, bits.nbytes)
        out[...] = from_bits(bits)
    else:
        lib.download(out.ctypes.data, pointer, out.nbytes)


def nbytes(shape: tuple[int, ...], spec: TensorSpec) -> int:
    """Bytes of an output in a GPU's memory."""
    return math.prod(shape) * spec.itemsize
