"""Datatypes, dataspaces and the values of attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sepcompile.frontend.hdf5.raw import Cursor, Raw

MAX_RANK = 8
# Elements of one attribute: names of weights and layers.
MAX_ATTRIBUTE = 65_536
_FIXED, _FLOAT, _STRING, _OPAQUE, _VLEN = 0, 1, 3, 5, 9
# (bit offset, precision, exponent position, exponent bits, mantissa position, mantissa bits, bias) of IEEE types.
_IEEE = {
    2: (0, 16, 10, 5, 0, 10, 15),
    4: (0, 32, 23, 8, 0, 23, 127),
    8: (0, 64, 52, 11, 0, 52, 1023),
}


@dataclass(frozen=True)
class Datatype:
    """``kind`` is "number" with its NumPy ``dtype``, "opaque", "string" or "vlen string"; ``size`` in bytes."""

    kind: str
    size: int
    dtype: np.dtype[np.generic] | None = None


def read_datatype(raw: Raw, block: memoryview) -> Datatype:
    """The datatype that a message describes. Raises ``UnsupportedError`` for the kinds that Keras does not write."""
    cursor = Cursor(raw, block, "datatype")
    first, bits, size = cursor.number(1), cursor.number(3), cursor.number(4)
    kind = first & 15
    if kind == _FIXED:
        return _integer(raw, cursor, bits, size)
    if kind == _FLOAT:
        return _float(raw, cursor, bits, size)
    if kind == _STRING and size >= 1:
        return Datatype("string", size)
    if kind == _OPAQUE and size >= 1:
        return Datatype("opaque", size)
    if kind == _VLEN and bits & 15 == 1 and size == 16:
        return Datatype("vlen string", 16)
    raise raw.unsupported(f"a datatype of class {kind} and {size} bytes")


def _integer(raw: Raw, cursor: Cursor, bits: int, size: int) -> Datatype:
    offset, precision = cursor.number(2), cursor.number(2)
    if size not in (1, 2, 4, 8) or offset != 0 or precision != 8 * size:
        raise raw.unsupported(f"an integer type of {precision} bits in {size} bytes")
    letter = "i" if bits & 8 else "u"
    return Datatype("number", size, np.dtype(f"{'>' if bits & 1 else '<'}{letter}{size}"))


def _float(raw: Raw, cursor: Cursor, bits: int, size: int) -> Datatype:
    layout = (
        cursor.number(2), cursor.number(2), cursor.number(1), cursor.number(1), cursor.number(1), cursor.number(1),
        cursor.number(4),
    )  # fmt: skip
    if _IEEE.get(size) != layout or bits & 0x40:
        raise raw.unsupported(f"a floating point type that is not IEEE's, of {size} bytes")
    return Datatype("number", size, np.dtype(f"{'>' if bits & 1 else '<'}f{size}"))


def read_dataspace(raw: Raw, block: memoryview) -> tuple[int, ...] | None:
    """The shape; () for a scalar and None for a null dataspace."""
    cursor = Cursor(raw, block, "dataspace")
    version, rank = cursor.number(1), cursor.number(1)
    if rank > MAX_RANK:
        raise raw.fail(f"a dataspace of {rank} axes; expected at most {MAX_RANK}")
    cursor.skip(1)
    if version == 1:
        cursor.skip(5)
    elif version != 2:
        raise raw.unsupported(f"a dataspace of version {version}")
    elif cursor.number(1) == 2:
        return None
    return tuple(cursor.number(8) for _ in range(rank))


def numbers(raw: Raw, data: memoryview, datatype: Datatype, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """``data`` as an array, read-only and without a copy. bfloat16 comes as an opaque type of two bytes."""
    if datatype.kind == "opaque":
        return np.frombuffer(data, np.dtype(f"V{datatype.size}")).reshape(shape)
    if datatype.dtype is None:
        raise raw.unsupported(f"a dataset of type {datatype.kind!r}")
    return np.frombuffer(data, datatype.dtype).reshape(shape)


Value = str | list[str] | NDArray[np.generic] | None


def attribute(raw: Raw, block: memoryview) -> tuple[str, Value]:
    """An attribute message's name and value: text, a list of texts, or an array of numbers."""
    cursor = Cursor(raw, block, "attribute")
    version = cursor.number(1)
    if version not in (1, 2, 3):
        raise raw.unsupported(f"an attribute of version {version}")
    if cursor.number(1) and version > 1:
        raise raw.unsupported("an attribute of a committed type")
    sizes = [cursor.number(2) for _ in range(3)]
    cursor.skip(1 if version == 3 else 0)
    parts = []
    for size in sizes:
        parts.append(cursor.take(size))
        if version == 1:
            # Its parts are padded each by itself; the fields before them fill 8 bytes.
            cursor.align(8)
    name = text(raw, bytes(parts[0]).rstrip(b"\0"), "an attribute's name")
    return name, _value(raw, cursor, read_datatype(raw, parts[1]), read_dataspace(raw, parts[2]))


def _value(raw: Raw, cursor: Cursor, datatype: Datatype, shape: tuple[int, ...] | None) -> Value:
    if shape is None:
        return None
    count = math.prod(shape)
    if count > MAX_ATTRIBUTE or len(shape) > 1:
        raise raw.fail(f"an attribute of shape {shape}; expected a scalar or a list of at most {MAX_ATTRIBUTE}")
    data = cursor.take(count * datatype.size)
    if datatype.kind in ("number", "opaque"):
        return numbers(raw, data, datatype, shape)
    pieces = [data[i * datatype.size : (i + 1) * datatype.size] for i in range(count)]
    if datatype.kind == "string":
        texts = [text(raw, bytes(piece).split(b"\0", 1)[0], "an attribute") for piece in pieces]
    else:
        texts = [text(raw, _from_heap(raw, piece), "an attribute") for piece in pieces]
    return texts if shape else texts[0]


def text(raw: Raw, data: bytes, what: str) -> str:
    """UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise raw.fail(f"{what} is not UTF-8 at byte {cause.start}") from None


def _from_heap(raw: Raw, reference: memoryview) -> bytes:
    """A variable-length string: its length, and the place of its bytes in a global heap collection."""
    cursor = Cursor(raw, reference, "variable-length string")
    length, address, index = cursor.number(4), cursor.number(8), cursor.number(4)
    if length == 0:
        return b""
    if address not in raw.heaps:
        raw.heaps[address] = _collection(raw, address)
    body = raw.heaps[address].get(index)
    if body is None or length > len(body):
        raise raw.fail(f"no object {index} of {length} bytes in the global heap at byte {address}")
    return bytes(body[:length]).split(b"\0", 1)[0]


def _collection(raw: Raw, address: int) -> dict[int, memoryview]:
    """The objects of a global heap collection by their index."""
    head = raw.signed(address, 16, b"GCOL", "global heap")
    total = int.from_bytes(head[8:16], "little")
    heap = Cursor(raw, raw.take(address, total, "global heap"), "global heap", 16)
    objects: dict[int, memoryview] = {}
    while heap.left >= 16:
        raw.step()
        index = heap.number(2)
        heap.skip(6)
        size = heap.number(8)
        if index == 0:  # what is left is free
            break
        objects[index] = heap.take(size)
        heap.align(8)
    return objects
