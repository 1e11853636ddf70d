"""What a cubin says about its kernels: registers, shared memory and stack, read off the ELF file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sepcompile.errors import CompileError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_TEXT, _SHARED, _INFO = ".text.", ".nv.shared.", ".nv.info"
_FRAME_SIZE, _REGISTERS = 0x11, 0x2F
_SIZED = 4  # format of an attribute that is followed by its size and bytes


@dataclass(frozen=True)
class Resources:
    """What one kernel needs. ``stack_bytes`` is local memory per thread: zero where nothing is spilled."""

    registers: int
    shared_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class _Section:
    name: str
    info: int
    size: int
    data: bytes


def resources(cubin: bytes) -> dict[str, Resources]:
    """Per kernel, what it needs. Raises ``CompileError`` where ``cubin`` is not an ELF file of a GPU."""
    sections = _sections(cubin)
    stacks, registers = dict(_attribute(sections, _FRAME_SIZE)), dict(_attribute(sections, _REGISTERS))
    shared = {s.name.removeprefix(_SHARED): s.size for s in sections if s.name.startswith(_SHARED)}
    return {
        name: Resources(registers.get(name) or section.info >> 24, shared.get(name, 0), stacks.get(name, 0))
        for section in sections
        if section.name.startswith(_TEXT) and (name := section.name.removeprefix(_TEXT))
    }


def _sections(cubin: bytes) -> list[_Section]:
    if cubin[:4] != b"\x7fELF" or len(cubin) < _HEADER.size:
        raise CompileError("a cubin is not an ELF file")
    header = _HEADER.unpack_from(cubin)
    start, count, names_at = header[6], header[12], header[13]
    rows = [_SECTION.unpack_from(cubin, start + i * _SECTION.size) for i in range(count)]
    names = cubin[rows[names_at][4] :]
    # A section without bits in the file (type 8) has a size, but no data.
    return [
        _Section(_text(names, row[0]), row[7], row[5], b"" if row[1] == 8 else cubin[row[4] : row[4] + row[5]])
        for row in rows
    ]


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def _attribute(sections: list[_Section], wanted: int) -> Iterator[tuple[str, int]]:
    """(kernel, value) of one attribute of the whole file, which names kernels by symbol number."""
    table = next(s.data for s in sections if s.name == ".symtab")
    names = next(s.data for s in sections if s.name == ".strtab")
    info = next((s.data for s in sections if s.name == _INFO), b"")
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        if form == _SIZED and attribute == wanted:
            symbol, value = struct.unpack_from("<II", info, at + 4)
            yield _text(names, _SYMBOL.unpack_from(table, symbol * _SYMBOL.size)[0]), value
        at += 4 + (size if form == _SIZED else 0)
