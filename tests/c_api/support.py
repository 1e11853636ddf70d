"""Static libraries in programs: linked without a libc, run here or on emulated cores."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

from sepcompile.codegen.c_api import StaticLibrary, build_static
from sepcompile.codegen.link import zig
from sepcompile.frontend import ImportedLayer
from sepcompile.targets import Target
from tests.arm.unicorn_run import _STACK, _STACK_BYTES, Emulator, Memory
from tests.compile.cases import build

TEXT = 0x0100_0000
_PAINT = 0xA5


def run_zig(folder: Path, *arguments: object) -> None:
    """``zig`` in ``folder``, with its caches there; what it says in the error where it fails."""
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [str(zig()), *map(str, arguments)], cwd=folder, env={**os.environ, **caches}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def library(layer: ImportedLayer, target: Target, name: str = "conv1") -> StaticLibrary:
    """The static library of a layer, without an artifact around it."""
    return build_static(build(layer, target), name=name, target=target, batch=layer.program.batch)


def member(archive: bytes) -> bytes:
    """The one object of a static library (ar): after its magic, members with a header of 60 bytes, evenly padded."""
    assert archive[:8] == b"!<arch>\n"
    at, found = 8, []
    while at < len(archive):
        name, size = archive[at : at + 16].decode().strip(), int(archive[at + 48 : at + 58])
        if name not in ("/", "//", "/SYM64/"):
            found.append(archive[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
    (content,) = found
    return content


def executable(folder: Path, files: Sequence[Path], symbols: Sequence[str]) -> bytes:
    """A program without a start of its own, that holds ``symbols``, linked at ``TEXT``."""
    roots = [f"--undefined={symbol}" for symbol in symbols]
    run_zig(folder, "ld.lld", f"-Ttext={TEXT:#x}", "--entry=0", *roots, "-o", "program.elf", *files)
    return (folder / "program.elf").read_bytes()


def shared(folder: Path, files: Sequence[Path]) -> Path:
    """A shared library of static ones, for ctypes."""
    run_zig(folder, "ld.lld", "-shared", "-Bsymbolic", "--no-undefined", "-o", "program.so", "--whole-archive", *files)
    return folder / "program.so"


class Program:
    """A static library on an emulated core, called as a C program would."""

    def __init__(self, folder: Path, static: StaticLibrary, core: str, name: str = "conv1") -> None:
        self.static, self.name = static, name
        (folder / "library.a").write_bytes(static.archive)
        functions = [f"{name}_{what}" for what in ("init", "run", "free", "run_tasks", "steps", "tasks", "arena_bytes")]
        self.emulator = Emulator(core, executable(folder, [folder / "library.a"], functions))

    def call(self, what: str, *arguments: int) -> int:
        """One of the API's functions; its result as a signed number."""
        result = self.emulator.call(f"{self.name}_{what}", *arguments) % 2**32
        return result - 2**32 if result >= 2**31 else result

    def start(self, at_end: bool = True) -> tuple[Memory, Memory]:
        """An initialised layer and its arena, which is as small as it may be."""
        layer, arena = self.emulator.guarded(16), self.emulator.guarded(self.static.arena, at_end)
        arena.write(b"\xff" * arena.nbytes)
        assert self.call("init", layer.address, arena.address, arena.nbytes) == 0
        return layer, arena

    def run(self, x: np.ndarray, batch: int | None, at_end: bool = True) -> np.ndarray:
        """The output of ``x``; ``batch`` None for a library with a fixed one."""
        images = self.static.output // 4 * (batch or 1)
        read = self.emulator.guarded(x.nbytes, at_end).write(x)
        written = self.emulator.guarded(4 * images, at_end).write(b"\xff" * (4 * images))
        layer, _ = self.start(at_end)
        more = () if batch is None else (batch,)
        assert self.call("run", layer.address, read.address, written.address, *more) == 0
        y = written.read("float32")
        self.emulator.release()
        return y

    def paint_stack(self) -> None:
        """Fill the stack, so that ``used_stack`` can tell how much of it was written."""
        self.emulator.machine.mem_write(_STACK, bytes([_PAINT]) * _STACK_BYTES)

    def used_stack(self) -> int:
        """Bytes below the caller's frame that have been written since ``paint_stack``."""
        content = np.frombuffer(bytes(self.emulator.machine.mem_read(_STACK, _STACK_BYTES - 256)), np.uint8)
        written = np.flatnonzero(content != _PAINT)
        return 0 if written.size == 0 else int(content.size - written[0])


def sections(content: bytes) -> dict[str, int]:
    """Bytes of an object's loaded sections by what they are: code, constants, data."""
    sizes = {"code": 0, "constants": 0, "data": 0}
    for section in ELFFile(io.BytesIO(content)).iter_sections():
        flags = section["sh_flags"]
        if flags & 2:
            sizes["code" if flags & 4 else "data" if flags & 1 else "constants"] += section["sh_size"]
    return sizes


def symbols(content: bytes, undefined: bool = False) -> dict[str, str]:
    """Global symbols and their visibility: those that are defined, or those that are needed."""
    table = ELFFile(io.BytesIO(content)).get_section_by_name(".symtab")
    return {
        symbol.name: symbol["st_other"]["visibility"]
        for symbol in table.iter_symbols()
        if symbol["st_info"]["bind"] != "STB_LOCAL" and symbol.name
        if (symbol["st_shndx"] == "SHN_UNDEF") == undefined
    }
