"""Compiles the C entry point and links it with the kernels, with the ``zig`` of the ``ziglang`` package.

Both calls start the ``zig`` program itself: ``python -m ziglang`` would start a Python for each. Together they take
about 50 ms.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from sepcompile.codegen.data import render
from sepcompile.codegen.entry import exported_symbols, pool_symbols, render_entry
from sepcompile.codegen.plan import Compiled
from sepcompile.errors import CompileError

_TIMEOUT_S = 120
_C_FLAGS = (
    "-c", "-std=gnu11", "-O2", "-g0", "-fPIC", "-ffreestanding", "-fno-builtin", "-nostdlib", "-fvisibility=hidden",
    "-fno-stack-protector", "-fno-sanitize=all", "-fomit-frame-pointer", "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables", "-ffunction-sections",
)  # fmt: skip
_LINK_FLAGS = (
    "-shared", "-s", "--gc-sections", "-Bsymbolic", "--no-undefined", "--hash-style=both", "--build-id=none",
    "-z", "noexecstack", "-z", "now", "-z", "relro",
)  # fmt: skip
# lld does not strip what it joins into one object. Nothing unwinds through C functions that call nobody.
_DISCARD = (
    "SECTIONS { /DISCARD/ : { *(.debug*) *(.rel*.debug*) *(.comment) *(.llvm*) *(.ARM.exidx*) *(.rel.ARM.exidx*) } }\n"
)


@cache
def zig() -> Path:
    """The ``zig`` program. Raises ``CompileError`` where the ``ziglang`` package is not installed."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CompileError("the package 'ziglang' is not installed; it holds the C compiler and the linker")
    program = Path(spec.origin).parent / ("zig.exe" if os.name == "nt" else "zig")
    if not program.is_file():
        raise CompileError(f"the package 'ziglang' has no program at {program}; reinstall it")
    return program


def compile_c(
    source: str, *, triple: str, flags: Sequence[str] = (), files: Mapping[str, bytes] | None = None
) -> bytes:
    """Object code of freestanding C. ``triple`` is zig's (``x86_64-linux-musl``); ``flags`` come after our own.

    ``files`` lie beside the source, for it to include.

    Raises ``CompileError`` with the compiler's first errors.
    """
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        # The source is named relatively, so that no object code can hold the folder's name.
        (Path(folder) / "entry.c").write_text(source, encoding="utf-8")
        for name, content in (files or {}).items():
            (Path(folder) / name).write_bytes(content)
        _zig(["cc", "-target", triple, *_C_FLAGS, *flags, "entry.c", "-o", "entry.o"], folder)
        return (Path(folder) / "entry.o").read_bytes()


def link_objects(objects: Sequence[bytes], *, exports: Sequence[str], soname: str) -> bytes:
    """A shared library of ELF ``objects`` that exports only ``exports`` and needs no other library.

    Raises ``CompileError``, also where a symbol stays undefined.
    """
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        names = _write_objects(objects, folder)
        script = "{ global: " + "".join(f"{symbol}; " for symbol in exports) + "local: *; };\n"
        (Path(folder) / "exports.txt").write_text(script, encoding="ascii")
        arguments = ["-soname", soname, "--version-script", "exports.txt", "-o", "library.so", *names]
        _zig(["ld.lld", *_LINK_FLAGS, *arguments], folder)
        return (Path(folder) / "library.so").read_bytes()


def join_objects(objects: Sequence[bytes], *, keep: Sequence[str]) -> bytes:
    """One relocatable object of ELF ``objects``: what the functions ``keep`` reach of them, and nothing for debuggers.

    Raises ``CompileError``.
    """
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        names = _write_objects(objects, folder)
        roots = [f"--undefined={symbol}" for symbol in keep]
        (Path(folder) / "discard.ld").write_text(_DISCARD, encoding="ascii")
        _zig(["ld.lld", "-r", "--gc-sections", "-T", "discard.ld", *roots, "-o", "joined.o", *names], folder)
        return (Path(folder) / "joined.o").read_bytes()


def archive_objects(objects: Mapping[str, bytes]) -> bytes:
    """A static library (ar) of ``objects`` by their file names; the same objects give the same bytes."""
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        for name, content in objects.items():
            (Path(folder) / name).write_bytes(content)
        _zig(["ar", "rcsD", "library.a", *objects], folder)
        return (Path(folder) / "library.a").read_bytes()


def _write_objects(objects: Sequence[bytes], folder: str) -> list[str]:
    names = [f"{index}.o" for index in range(len(objects))]
    for file, content in zip(names, objects, strict=True):
        (Path(folder) / file).write_bytes(content)
    return names


def entry_object(compiled: Compiled, *, name: str, triple: str, threads: bool = True) -> bytes:
    """Object code of the entry point of ``compiled``; ``threads=False`` leaves the pool out (bare metal)."""
    source = render_entry(compiled.plan, name=name, weights=tuple(compiled.weights))
    return compile_c(source, triple=triple, flags=() if threads else ("-DSEP_NO_THREADS",))


@cache
def memory_object(triple: str) -> bytes:
    """Object code of memset, memcpy and memmove, which LLVM may call and a bare library has to bring."""
    return compile_c(render("memory.c.j2"), triple=triple)


def link_library(compiled: Compiled, *, name: str, triple: str) -> bytes:
    """The shared library (ELF) of one variant: its kernels, the entry point and the pool.

    ``name`` is a C identifier (``entry.symbol_name``), ``triple`` zig's name of the platform.
    Raises ``CompileError``.
    """
    entry = entry_object(compiled, name=name, triple=triple)
    exports = (*exported_symbols(name, compiled.plan.residual), *pool_symbols(name))
    return link_objects([compiled.object_code, entry, memory_object(triple)], exports=exports, soname=f"lib{name}.so")


def _zig(arguments: Sequence[str], folder: str) -> None:
    # Caches in the temporary folder: an unwritable or missing home must not matter, and nothing is left behind.
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(Path(folder) / "cache"), "ZIG_LOCAL_CACHE_DIR": str(Path(folder) / "cache")}
    try:
        done = subprocess.run(
            [str(zig()), *arguments], cwd=folder, env={**os.environ, **caches}, capture_output=True, text=True,
            errors="replace", timeout=_TIMEOUT_S, check=False,
            start_new_session=True,  # ^C is for this process, which may want to end what it began
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"zig {arguments[0]} could not be run: {error}") from error
    if done.returncode:
        lines = "\n".join((done.stderr or done.stdout).strip().splitlines()[:20])
        raise CompileError(f"zig {arguments[0]} ended with status {done.returncode}:\n{lines}")
