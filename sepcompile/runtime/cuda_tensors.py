"""GPU tensors of other libraries: read through DLPack, on the stream that their library works on."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError

CUDA_DEVICE = 2  # DLPack's kDLCUDA
_DTYPES = {(2, 16): "float16", (2, 32): "float32", (2, 64): "float64", (4, 16): "bfloat16"}
_ALIGNMENT = 16  # kernels load and store up to 16 bytes at a time


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@dataclass(frozen=True)
class GpuTensor:
    """A tensor in a GPU's memory. ``keep`` keeps its memory alive."""

    address: int
    device: int
    shape: tuple[int, ...]
    dtype: str
    keep: Any


def gpu_device(x: object) -> int | None:
    """The number of the GPU that ``x`` lives on; None where it is not a GPU's tensor."""
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack_device__"):
        return None
    kind, number = x.__dlpack_device__()
    return int(number) if int(kind) == CUDA_DEVICE else None


def read_tensor(x: Any, stream: int, layer: str, what: str) -> GpuTensor:
    """``x``, a GPU's tensor, as its library hands it over for work on ``stream``. Raises ``InputError``."""
    try:
        # Streams 0 and 1 both mean the legacy default stream; DLPack knows it as 1.
        capsule = x.__dlpack__(stream=stream or 1)
        tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    except Exception as error:  # whatever a foreign library raises, such as for a tensor with gradients
        raise InputError(f"layer {layer!r}: {what} ({type(x).__name__}) cannot be read by DLPack: {error}") from error
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    dtype = _DTYPES.get((tensor.code, tensor.bits), f"DLPack type {tensor.code} of {tensor.bits} bits")
    if tensor.lanes != 1 or (tensor.strides and not _compact(shape, [tensor.strides[i] for i in range(tensor.ndim)])):
        raise InputError(f"layer {layer!r}: {what} is not C-contiguous; call .contiguous() on it first")
    address = (tensor.data or 0) + tensor.byte_offset
    if address % _ALIGNMENT:
        raise InputError(f"layer {layer!r}: {what} lies at an address that is no multiple of {_ALIGNMENT}; copy it")
    return GpuTensor(address, tensor.device.id, shape, dtype, capsule)


def _compact(shape: tuple[int, ...], strides: list[int]) -> bool:
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides)):  # noqa: B905 - Python 3.9 has no strict=
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def stream_of(x: object, stream: object, device: int) -> int:
    """The handle of ``stream``, or where it is None of the stream that the library of ``x`` works on."""
    if stream is None:
        return _current_stream(x, device)
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # PyTorch, CuPy
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise InputError(f"stream is of type {type(stream).__name__}; expected a handle or an object with __cuda_stream__")


def is_stream_known(x: object, stream: object) -> bool:
    """Whether ``stream_of`` gives a stream that the library of ``x`` works on, so that it need not wait for ours.

    JAX hands tensors over for any stream, but has work on streams of its own that nobody can name.
    """
    return stream is not None or _library(x)[0] in ("torch", "cupy")


def _library(x: object) -> tuple[str, Any]:
    """The library of a tensor, by its name and as a module."""
    name = type(x).__module__.partition(".")[0]
    name = "jax" if name == "jaxlib" else name
    return name, sys.modules.get(name)


def _current_stream(x: object, device: int) -> int:
    name, library = _library(x)
    if name == "torch":
        return int(library.cuda.current_stream(device).cuda_stream)
    if name == "cupy":
        return int(library.cuda.get_current_stream().ptr)
    return 0


def empty_like(x: Any, shape: tuple[int, ...], dtype: str, layer: str) -> Any:
    """A new tensor of the library of ``x``, on its device. Raises ``InputError`` for a library that is not known."""
    name, library = _library(x)
    if name == "torch":
        return library.empty(shape, dtype=getattr(library, dtype), device=x.device)
    if name == "cupy":
        with x.device:
            return library.empty(shape, dtype=dtype)
    if name == "jax":
        return library.numpy.empty(shape, dtype=dtype, device=x.device)
    raise InputError(f"layer {layer!r}: give out=, a tensor of shape {shape}, for x of type {type(x).__name__}")
