"""Readers of weight files: .npz and .safetensors, without pickle and with every declared size checked first.

A member of an .npz may declare more than it stores, and a safetensors header may point anywhere: both are compared
with the bytes that are there before an array is made.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ConfigError, UnsupportedError, WeightError
from sepcompile.frontend import jsontext
from sepcompile.frontend.values import show

# All arrays of one file together.
MAX_BYTES = 2**31
MAX_MEMBERS = 16_384
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
}


def read_file(path: str | os.PathLike[Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a weight file by name. Raises ``WeightError`` for anything that does not add up."""
    text = os.fspath(path)
    if not isinstance(text, str) or "\0" in text or len(text) > 4096:
        raise WeightError(f"weights={show(path)}: expected the path of a .npz, .safetensors, .h5 or .keras file")
    file = Path(text)
    if file.suffix in (".h5", ".hdf5", ".keras"):
        raise UnsupportedError(f"weights={show(text)}: {file.suffix} is not read; accepted: .npz, .safetensors")
    reader = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(file.suffix)
    if reader is None:
        raise WeightError(f"weights={show(text)}: expected the path of a .npz, .safetensors, .h5 or .keras file")
    try:
        return reader(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as cause:
        if isinstance(cause, WeightError):
            raise
        raise WeightError(f"{file.name}: cannot be read: {show(str(cause))}") from None


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
            raise WeightError(f"{path.name}: more than {MAX_MEMBERS} arrays or {MAX_BYTES} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise WeightError(f"{path.name}: two arrays named {show(name)}")
            with archive.open(member) as stream:
                arrays[name] = _read_npy(stream, member.file_size, f"{path.name}: array {show(name)}")
    return arrays


def _read_npy(stream: IO[bytes], size: int, label: str) -> NDArray[Any]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise WeightError(f"{label}: .npy format {version}; accepted: 1.0 and 2.0")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject or dtype.kind not in "fiu":
        raise WeightError(f"{label}: dtype {dtype}; expected a real number type")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size or needed > MAX_BYTES:
        raise WeightError(f"{label}: declares shape {shape} of {needed} bytes, stores {size}")
    data = stream.read(needed + 1)
    if len(data) != needed:
        raise WeightError(f"{label}: declares shape {shape} of {needed} bytes, stores {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    size = path.stat().st_size
    if not 8 <= size <= MAX_BYTES:
        raise WeightError(f"{path.name}: {size} bytes; expected a safetensors file below {MAX_BYTES}")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, jsontext.MAX_BYTES):
        raise WeightError(f"{path.name}: declares a header of {length} bytes, stores {len(data) - 8}")
    try:
        header = jsontext.parse(data[8 : 8 + length], path.name)
    except ConfigError as cause:
        raise WeightError(str(cause)) from None
    if not isinstance(header, dict) or len(header) > MAX_MEMBERS:
        raise WeightError(f"{path.name}: the header is not an object of at most {MAX_MEMBERS} tensors")
    body = memoryview(data)[8 + length :]
    return {
        name: _tensor(entry, body, f"{path.name}: tensor {show(name)}")
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _tensor(entry: object, body: memoryview, label: str) -> NDArray[Any]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightError(f"{label}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS:
        raise WeightError(f"{label}: dtype={show(dtype)}; accepted: {', '.join(_SAFETENSORS)}")
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2):
        raise WeightError(f"{label}: shape={show(shape)} data_offsets={show(offsets)}; expected lists of sizes")
    kind = np.dtype(_SAFETENSORS[dtype])
    if offsets[1] > len(body) or math.prod(shape) * kind.itemsize != offsets[1] - offsets[0]:
        raise WeightError(f"{label}: {dtype} {shape} does not fill data_offsets={offsets} in {len(body)} bytes")
    array = np.frombuffer(body[offsets[0] : offsets[1]], kind).reshape(shape)
    # bfloat16 is the upper half of a float32.
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)
