"""Turns what a caller hands over into the array a kernel reads, or says what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError

_CPU = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost (page-locked host memory)


@dataclass(frozen=True)
class TensorSpec:
    """Shape (``None``: a dynamic batch) and dtype of a tensor at the layer's edge.

    NumPy has no bfloat16: a ``bfloat16`` tensor's ``dtype`` is float32, which is taken and given in its place.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype
    bfloat16: bool = False

    @property
    def name(self) -> str:
        """The name of the dtype in memory."""
        return "bfloat16" if self.bfloat16 else str(self.dtype.name)

    @property
    def itemsize(self) -> int:
        """Bytes of an element in memory."""
        return 2 if self.bfloat16 else self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name}{describe(self.shape)}"


def describe(shape: tuple[int | None, ...]) -> str:
    """A shape as Keras prints it: ``(None, 8, 8, 3)``."""
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"


def as_input(x: object, spec: TensorSpec, layer: str, what: str = "x") -> np.ndarray:
    """``x`` as a C-contiguous, aligned array of the layer's dtype; a copy only where that is needed.

    ``what`` is the argument's name. Other floating dtypes are cast, as Keras does. Raises ``InputError``.
    """
    array = x if isinstance(x, np.ndarray) else _from_other(x, layer, what)
    if isinstance(array, np.ma.MaskedArray):
        advice = f"pass {what}.filled(...)"
        raise InputError(f"layer {layer!r}: {what} is a masked array, whose mask would be lost; {advice}")
    check_shape(array.shape, spec, layer, what)
    if array.dtype != spec.dtype:
        array = _cast(array, spec, layer, what)
    return np.require(np.asarray(array), spec.dtype, ["C", "A"])


def _from_other(x: object, layer: str, what: str) -> np.ndarray:
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        try:
            device = int(x.__dlpack_device__()[0])
            if device not in _CPU:
                found = f"DLPack device type {device}"
                raise InputError(f"layer {layer!r}: {what} is on {found}; this layer reads CPU memory")
            return np.from_dlpack(x)
        except InputError:
            raise
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError):
            pass  # NumPy before 1.23, a dtype it has not, or a tensor that gradients are recorded for: try __array__
    if not hasattr(x, "__array__"):
        raise InputError(
            f"layer {layer!r}: {what} is of type {type(x).__name__}; accepted: a NumPy array, "
            "or an object with __dlpack__ (on the CPU) or __array__"
        )
    try:
        return np.asarray(x)
    except Exception as error:  # whatever a foreign __array__ raises
        raise InputError(f"layer {layer!r}: {what} ({type(x).__name__}) cannot be read as an array: {error}") from error


def _cast(array: np.ndarray, spec: TensorSpec, layer: str, what: str) -> np.ndarray:
    # ml_dtypes' bfloat16 and float8 are of kind "V" to NumPy; their names tell them from records.
    floating = array.dtype.kind == "f" or (array.dtype.kind == "V" and "float" in array.dtype.name)
    if not floating:
        raise InputError(
            f"layer {layer!r}: {what} has dtype {array.dtype.name}; expected {spec.dtype.name}, or another floating "
            f"dtype (cast it first: {what}.astype({spec.dtype.name!r}))"
        )
    with np.errstate(over="ignore"):  # a large float64 becomes infinite, as in Keras
        return array.astype(spec.dtype)


def check_shape(shape: tuple[int, ...], spec: TensorSpec, layer: str, what: str) -> None:
    """Raises ``InputError`` where ``shape`` is not what ``spec`` says; ``what`` is the argument's name."""
    expected = spec.shape
    if len(shape) != len(expected):
        raise InputError(
            f"layer {layer!r}: {what} has {len(shape)} dimensions, shape {describe(shape)}; "
            f"expected {len(expected)}, shape {describe(expected)}"
        )
    for axis, size in enumerate(expected):
        if size is not None and shape[axis] != size:
            raise InputError(
                f"layer {layer!r}: {what} has shape {describe(shape)}; expected {describe(expected)} "
                f"(axis {axis} is {shape[axis]}, not {size})"
            )
    if shape[0] > 2**31 - 1:
        raise InputError(f"layer {layer!r}: {what} has a batch of {shape[0]}; at most {2**31 - 1}")


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype, layer: str) -> None:
    """Raises ``InputError`` where results cannot be written to ``out`` as it is."""
    if not isinstance(out, np.ndarray):
        raise InputError(f"layer {layer!r}: out is of type {type(out).__name__}; expected a numpy.ndarray")
    if out.shape != shape:
        raise InputError(f"layer {layer!r}: out has shape {describe(out.shape)}; expected {describe(shape)}")
    if out.dtype != dtype:
        order = "" if out.dtype.isnative else " of the other byte order"
        raise InputError(f"layer {layer!r}: out has dtype {out.dtype.name}{order}; expected {dtype.name}")
    if not out.flags.c_contiguous or not out.flags.aligned:
        raise InputError(f"layer {layer!r}: out is not C-contiguous and aligned; expected both")
    if not out.flags.writeable:
        raise InputError(f"layer {layer!r}: out is read-only; expected a writable array")
