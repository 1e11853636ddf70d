"""Relocatable ELF objects: what they hold and need, and new names for their symbols."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

_HIDDEN = 2
_ARM_SP = 13
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4


@dataclass(frozen=True)
class SectionBytes:
    """Bytes of an object that are loaded: machine code, constants, variables with a value, variables without."""

    code: int
    constants: int
    data: int
    zeros: int


def section_bytes(content: bytes) -> SectionBytes:
    """What a linked program takes of an object, apart from gaps between its sections."""
    sizes = dict.fromkeys(("code", "constants", "data", "zeros"), 0)
    for section in ELFFile(io.BytesIO(content)).iter_sections():
        flags = section["sh_flags"]
        if flags & _ALLOC:
            kind = "code" if flags & _EXECUTE else "constants" if not flags & _WRITE else "data"
            sizes["zeros" if section["sh_type"] == "SHT_NOBITS" else kind] += section["sh_size"]
    return SectionBytes(**sizes)


def undefined(content: bytes) -> tuple[str, ...]:
    """Symbols that the object needs from elsewhere."""
    return tuple(name for _, name, symbol in _globals(content) if symbol["st_shndx"] == "SHN_UNDEF")


def defined(content: bytes) -> tuple[str, ...]:
    """Symbols that other objects can see, weak ones and hidden ones included."""
    return tuple(name for _, name, symbol in _globals(content) if symbol["st_shndx"] != "SHN_UNDEF")


def hide(content: bytes, names: Mapping[str, str]) -> bytes:
    """The object with every global symbol in ``names`` under its new name, and hidden from shared libraries."""
    elf = ELFFile(io.BytesIO(content))
    table: Any = elf.get_section_by_name(".symtab")
    strings: Any = elf.get_section(table["sh_link"])
    new, result = bytearray(strings.data()), bytearray(content)
    for index, name, _ in _globals(content):
        if name in names:
            entry = table["sh_offset"] + index * table["sh_entsize"]
            struct.pack_into("<I", result, entry, len(new))
            result[entry + (5 if elf.elfclass == 64 else 13)] = _HIDDEN  # st_other
            new += names[name].encode() + b"\0"
    # The strings no longer fit where they were: they go to the end, and their section header says so.
    header = elf["e_shoff"] + table["sh_link"] * elf["e_shentsize"]
    where, word = (header + 24, "<QQ") if elf.elfclass == 64 else (header + 16, "<II")
    struct.pack_into(word, result, where, len(result), len(new))
    return bytes(result + new)


def frame_bytes(content: bytes) -> int | None:
    """The most stack that one function of a 32-bit Arm object takes, from its call frame information (.debug_frame).

    None where a frame's size is not a constant.
    """
    elf = ELFFile(io.BytesIO(content))
    info = elf.get_dwarf_info()
    most = 0
    for entry in info.CFI_entries() if info.has_CFI() else ():
        if isinstance(entry, FDE):
            rows: Any = entry.get_decoded().table
            if any(row["cfa"].reg != _ARM_SP for row in rows):
                return None
            most = max([most, *(row["cfa"].offset for row in rows)])
    return most


def _globals(content: bytes) -> Iterator[tuple[int, str, Any]]:
    """(index, name, symbol) of every symbol that is not local to the object."""
    table: Any = ELFFile(io.BytesIO(content)).get_section_by_name(".symtab")
    for index, symbol in enumerate(table.iter_symbols()):
        if symbol["st_info"]["bind"] != "STB_LOCAL" and symbol.name:
            yield index, symbol.name, symbol
