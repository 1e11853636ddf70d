"""A reader of safetensors files that trusts nothing in them."""

from __future__ import annotations

import math

import numpy as np

from .errors import ArtifactError
from .fields import Fields, parse_json, whole

_MOST_HEADER = 16 << 20  # bytes
_MOST_RANK = 16
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BF16": "<u2",
}  # fmt: skip
"""The format's dtypes that are read, and NumPy's names; bfloat16 comes as the bits."""


def read_tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, as read-only views of ``data``.

    The data must be covered without holes or overlaps. Raises ``ArtifactError``; ``where`` names the file.
    """
    if len(data) < 8:
        raise ArtifactError(f"{where}: {len(data)} bytes; a safetensors file has at least 8")
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, _MOST_HEADER):
        raise ArtifactError(f"{where}: header of {length} bytes in a file of {len(data)}; at most {_MOST_HEADER}")
    if data[8:9] != b"{":
        raise ArtifactError(f"{where}: the header does not start with an object")
    header = parse_json(data[8 : 8 + length], where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArtifactError(f"{where}: __metadata__ is not an object of strings")
    start, spans, tensors = 8 + length, [], {}
    for name, entry in header.items():
        tensors[name], span = _tensor(data, start, entry, f"{where}: tensor {name[:80]!r}")
        spans.append(span)
    _check_cover(spans, len(data) - start, where)
    return tensors


def _tensor(data: bytes, start: int, entry: object, where: str) -> tuple[np.ndarray, tuple[int, int]]:
    fields = Fields(entry, where)
    dtype_name = fields.text("dtype")
    if dtype_name not in DTYPES:
        raise fields.error("dtype", dtype_name, f"one of {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[dtype_name])
    shape = [whole(size, f"{where}.shape") for size in fields.array("shape", _MOST_RANK)]
    offsets = fields.array("data_offsets", 2)
    fields.done()
    if len(offsets) != 2:
        raise ArtifactError(f"{where}.data_offsets: {len(offsets)} values; expected 2")
    begin, end = (whole(offset, f"{where}.data_offsets", 0, len(data) - start) for offset in offsets)
    count = math.prod(shape)
    if end - begin != count * dtype.itemsize:
        raise ArtifactError(f"{where}: {end - begin} bytes at {offsets} for {dtype_name}{shape}")
    return np.frombuffer(data, dtype, count, start + begin).reshape(shape), (begin, end)


def _check_cover(spans: list[tuple[int, int]], size: int, where: str) -> None:
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ArtifactError(f"{where}: {'a hole' if begin > at else 'overlapping tensors'} at data byte {at}")
        at = end
    if at != size:
        raise ArtifactError(f"{where}: tensors end at data byte {at} of {size}")
