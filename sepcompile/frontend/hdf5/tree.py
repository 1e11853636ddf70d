"""Groups and datasets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import WeightError
from sepcompile.frontend.hdf5 import values
from sepcompile.frontend.hdf5.headers import Message, read_header, root_address
from sepcompile.frontend.hdf5.raw import UNDEFINED, Cursor, Raw
from sepcompile.frontend.values import show

_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE = 1, 2, 3, 6, 7, 8, 11, 12
_SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x11, 0x15
_MAX_TREE_DEPTH = 16
MAX_LINKS = 100_000


@dataclass(frozen=True)
class Dataset:
    """A dataset of numbers, read when ``array`` is called."""

    raw: Raw
    path: str
    messages: tuple[Message, ...]

    def array(self) -> NDArray[np.generic]:
        """The values; read-only. bfloat16 is returned as two opaque bytes per value."""
        shape, datatype = self._shape(), values.read_datatype(self.raw, self._body(_DATATYPE, "datatype"))
        data = self._data()
        needed = math.prod(shape) * datatype.size
        if needed != len(data):
            raise WeightError(
                f"{self.raw.label}: dataset {show(self.path)} declares shape {shape} of {needed} bytes, "
                f"stores {len(data)}"
            )
        return values.numbers(self.raw, data, datatype, shape)

    def attributes(self) -> dict[str, values.Value]:
        """The attributes by name."""
        return _attributes(self.raw, self.messages)

    def _shape(self) -> tuple[int, ...]:
        shape = values.read_dataspace(self.raw, self._body(_DATASPACE, "dataspace"))
        return (0,) if shape is None else shape

    def _body(self, kind: int, what: str) -> memoryview:
        return _single(self.raw, self.messages, kind, f"{what} of {show(self.path)}")

    def _data(self) -> memoryview:
        kinds = {message.kind for message in self.messages}
        if _EXTERNAL in kinds:
            raise self.raw.unsupported(f"external storage ({show(self.path)})")
        if _FILTERS in kinds:
            raise self.raw.unsupported(f"a compressed dataset ({show(self.path)})")
        cursor = Cursor(self.raw, self._body(_LAYOUT, "layout"), "layout")
        version, kind = cursor.number(1), cursor.number(1)
        if version not in (3, 4):
            raise self.raw.unsupported(f"a data layout of version {version}")
        if kind == 0:
            return cursor.take(cursor.number(2))
        if kind == 1:
            address, size = cursor.number(8), cursor.number(8)
            if address == UNDEFINED:
                return self.raw.data[:0]
            return self.raw.take(address, size, f"dataset {show(self.path)}")
        names = {2: "a chunked dataset", 3: "a virtual dataset"}
        raise self.raw.unsupported(f"{names.get(kind, f'a data layout of class {kind}')} ({show(self.path)})")


@dataclass(frozen=True)
class Group:
    """A group: attributes, and links to groups and datasets by name."""

    raw: Raw
    path: str
    messages: tuple[Message, ...]
    _links: dict[str, int] = field(default_factory=dict, repr=False)

    def attributes(self) -> dict[str, values.Value]:
        """The attributes by name."""
        return _attributes(self.raw, self.messages)

    def names(self) -> tuple[str, ...]:
        """The names of what is in it."""
        return tuple(self._addresses())

    def child(self, name: str) -> Group | Dataset | None:
        """The group or dataset called ``name``, or None."""
        address = self._addresses().get(name)
        return None if address is None else _open(self.raw, address, f"{self.path}/{name}".lstrip("/"))

    def find(self, path: str) -> Group | Dataset | None:
        """The group or dataset at a path of names below this group, or None."""
        here: Group | Dataset | None = self
        for name in path.split("/"):
            if not isinstance(here, Group):
                return None
            here = here.child(name)
        return here

    def group(self, path: str) -> Group | None:
        """``find``, where it is a group."""
        found = self.find(path)
        return found if isinstance(found, Group) else None

    def dataset(self, path: str) -> Dataset | None:
        """``find``, where it is a dataset."""
        found = self.find(path)
        return found if isinstance(found, Dataset) else None

    def _addresses(self) -> dict[str, int]:
        if not self._links:
            for name, address in _links(self.raw, self.messages):
                if name in self._links:
                    raise self.raw.fail(f"two links {show(name)} in group {show(self.path)}")
                if len(self._links) >= MAX_LINKS:
                    raise self.raw.fail(f"more than {MAX_LINKS} links in one group")
                self._links[name] = address
        return self._links


class File(Group):
    """The root group of a file's bytes; ``label`` begins every message.

    Raises ``WeightError`` for damage and ``UnsupportedError`` for HDF5 that is not read, here and in every method.
    """

    def __init__(self, data: bytes | memoryview, label: str) -> None:
        raw = Raw(memoryview(data), label)
        super().__init__(raw, "", tuple(read_header(raw, root_address(raw))))


def _open(raw: Raw, address: int, path: str) -> Group | Dataset:
    messages = tuple(read_header(raw, address))
    kinds = {message.kind for message in messages}
    if _LAYOUT in kinds:
        return Dataset(raw, path, messages)
    if kinds & {_SYMBOL_TABLE, _LINK_INFO, _LINK}:
        return Group(raw, path, messages)
    raise raw.fail(f"{show(path)} is neither a group nor a dataset")


def _single(raw: Raw, messages: tuple[Message, ...], kind: int, what: str) -> memoryview:
    found = [message for message in messages if message.kind == kind]
    if len(found) != 1:
        raise raw.fail(f"{len(found)} messages with the {what}")
    if found[0].is_shared:
        raise raw.unsupported(f"a shared {what}")
    return found[0].body


def _attributes(raw: Raw, messages: tuple[Message, ...]) -> dict[str, values.Value]:
    result: dict[str, values.Value] = {}
    for message in messages:
        if message.kind == _ATTRIBUTE_INFO:
            cursor = Cursor(raw, message.body, "attribute info")
            cursor.skip(1)
            cursor.skip(2 if cursor.number(1) & 1 else 0)
            if cursor.number(8) != UNDEFINED:
                raise raw.unsupported("attributes in dense storage")
        elif message.kind == _ATTRIBUTE:
            if message.is_shared:
                raise raw.unsupported("a shared attribute")
            name, value = values.attribute(raw, message.body)
            if name in result:
                raise raw.fail(f"two attributes {show(name)}")
            result[name] = value
    return result


# ---- links ---------------------------------------------------------------------------------------------------------


def _links(raw: Raw, messages: tuple[Message, ...]) -> Iterator[tuple[str, int]]:
    for message in messages:
        if message.kind == _SYMBOL_TABLE:
            cursor = Cursor(raw, message.body, "symbol table")
            tree, heap = cursor.number(8), cursor.number(8)
            yield from _tree(raw, tree, _heap(raw, heap), 0)
        elif message.kind == _LINK:
            yield _link(raw, message.body)
        elif message.kind == _LINK_INFO:
            cursor = Cursor(raw, message.body, "link info")
            cursor.skip(1)
            cursor.skip(8 if cursor.number(1) & 1 else 0)
            if cursor.number(8) != UNDEFINED:
                raise raw.unsupported("links in dense storage")


def _heap(raw: Raw, address: int) -> memoryview:
    cursor = Cursor(raw, raw.signed(address, 32, b"HEAP", "local heap"), "local heap", 8)
    size, _, data = cursor.number(8), cursor.number(8), cursor.number(8)
    return raw.take(data, size, "local heap")


def _tree(raw: Raw, address: int, heap: memoryview, depth: int) -> Iterator[tuple[str, int]]:
    """The links below a node of a group's B-tree, in the order of their names."""
    if depth > _MAX_TREE_DEPTH:
        raise raw.fail(f"a B-tree deeper than {_MAX_TREE_DEPTH}")
    head = Cursor(raw, raw.signed(address, 24, b"TREE", "B-tree node"), "B-tree node", 4)
    kind, level, count = head.number(1), head.number(1), head.number(2)
    if kind != 0:
        raise raw.fail(f"a B-tree of type {kind} in a group")
    body = Cursor(raw, raw.take(address + 24, count * 16, "B-tree node"), "B-tree node")
    for _ in range(count):
        body.skip(8)
        child = body.number(8)
        yield from _tree(raw, child, heap, depth + 1) if level else _symbols(raw, child, heap)


def _symbols(raw: Raw, address: int, heap: memoryview) -> Iterator[tuple[str, int]]:
    count = int.from_bytes(raw.signed(address, 8, b"SNOD", "symbol table node")[6:8], "little")
    entries = Cursor(raw, raw.take(address + 8, count * 40, "symbol table node"), "symbol table node")
    for _ in range(count):
        raw.step()
        offset, target, cache = entries.number(8), entries.number(8), entries.number(4)
        entries.skip(20)
        name = _name(raw, heap, offset)
        if cache == 2 or target == UNDEFINED:
            raise raw.unsupported(f"a soft link ({show(name)})")
        yield name, target


def _name(raw: Raw, heap: memoryview, offset: int) -> str:
    if offset >= len(heap):
        raise raw.fail(f"a link's name at {offset} of a heap of {len(heap)} bytes")
    limited = bytes(heap[offset : offset + 4096])
    end = limited.find(b"\0")
    if end < 0:
        raise raw.fail("a link's name without an end")
    return _checked(raw, values.text(raw, limited[:end], "a link's name"))


def _checked(raw: Raw, name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise raw.fail(f"a link named {show(name)}")
    return name


def _link(raw: Raw, body: memoryview) -> tuple[str, int]:
    cursor = Cursor(raw, body, "link")
    cursor.skip(1)
    flags = cursor.number(1)
    kind = cursor.number(1) if flags & 8 else 0
    cursor.skip((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = _checked(raw, values.text(raw, bytes(cursor.take(cursor.number(1 << (flags & 3)))), "a link's name"))
    if kind != 0:
        names = {1: "a soft link", 64: "an external link"}
        raise raw.unsupported(f"{names.get(kind, f'a link of type {kind}')} ({show(name)})")
    return name, cursor.number(8)
