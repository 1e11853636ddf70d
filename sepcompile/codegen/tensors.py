"""Writes safetensors files: the same tensors always give the same bytes, and data starts on cache lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sepcompile.errors import CompileError

_LINE = 64
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file and where the data of each tensor starts in it, in bytes."""

    data: bytes
    offsets: Mapping[str, int]


def dtype_code(dtype: np.dtype) -> str:
    """The format's name of a NumPy dtype. Raises ``CompileError`` for one it has not."""
    try:
        return _DTYPES[dtype.name]
    except KeyError:
        raise CompileError(f"dtype {dtype.name} cannot be stored; {', '.join(_DTYPES)} can") from None


def write_tensors(tensors: Mapping[str, np.ndarray]) -> TensorFile:
    """All ``tensors`` in one file.

    The format allows no gaps, so arrays of whole cache lines come first: those are then all aligned.
    """
    keys = sorted(tensors, key=lambda key: (tensors[key].nbytes % _LINE != 0, key))
    header: dict[str, object] = {}
    spans: dict[str, int] = {}
    at = 0
    for key in keys:
        array = tensors[key]
        header[key] = {
            "dtype": dtype_code(array.dtype),
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        spans[key] = at
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    start = 8 + len(text)
    content = [tensors[key].astype(tensors[key].dtype.newbyteorder("<")).tobytes() for key in keys]
    data = b"".join([len(text).to_bytes(8, "little"), text, *content])
    return TensorFile(data, {key: start + offset for key, offset in spans.items()})
