"""The programs that emulation needs: found or built, or an error that says where they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sepcompile.bench.emulate.cores import PROGRAMS, ZIG, Core
from sepcompile.bench.errors import BenchError
from sepcompile.codegen.link import zig

HERE = Path(__file__).parent
LLVM_VERSIONS = range(24, 14, -1)  # 14 and older have no model of a Neoverse core
TIMEOUT_S = 1800


def qemu(core: Core) -> str:
    """qemu-user for the core's architecture."""
    program = PROGRAMS[core.debian]
    found = shutil.which(program)
    if found is None:
        raise BenchError(f"{program} is not found; on Debian it is in the package qemu-user (qemu 5 to 8)")
    return found


def llvm(name: str) -> str:
    """``llvm-mca`` or ``llvm-mc``, with or without a version in its name; the newest that is there."""
    candidates = [f"{name}-{version}" for version in LLVM_VERSIONS] + [name]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        raise BenchError(f"{name} is not found; on Debian it is in the package llvm-19 (15 or newer)")
    return found


def build_plugin(folder: Path) -> Path:
    """The counting plugin, for this machine."""
    path = folder / "sepcount.so"
    _compile(["-shared", "-fPIC", "-O2", "-fvisibility=hidden", str(HERE / "sepcount.c")], path)
    return path


def build_harness(core: Core, folder: Path) -> Path:
    """The program that runs our layers, for the core's architecture."""
    path = folder / f"harness-{core.debian}"
    _compile(["-target", ZIG[core.debian], "-O1", str(HERE / "harness.c"), "-ldl"], path)
    return path


def build_marks(core: Core, folder: Path) -> Path:
    """The marks as a shared library, for the core's architecture."""
    path = folder / f"marks-{core.debian}.so"
    _compile(["-target", ZIG[core.debian], "-shared", "-fPIC", "-O1", str(HERE / "marks.c")], path)
    return path


def _compile(arguments: Sequence[str], output: Path) -> None:
    caches = {f"ZIG_{kind}_CACHE_DIR": str(output.parent / "zig-cache") for kind in ("GLOBAL", "LOCAL")}
    command = [str(zig()), "cc", *arguments, "-o", str(output)]
    done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{output.name} cannot be compiled: {done.stderr.strip()[-600:]}")


def run_counted(
    core: Core, plugin: Path, out: Path, command: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, str]:
    """Run a program of the core's architecture under qemu and the plugin, which writes ``out``.0, ``out``.1, ...

    Returns its standard output, and why it failed: an empty string where it did not.
    """
    options = f"{plugin},out={out},{core.plugin_options}"
    try:
        done = subprocess.run(
            [qemu(core), "-cpu", core.cpu, "-plugin", options, *command],
            env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"no end after {TIMEOUT_S} seconds"
    if "unknown option 'plugin'" in done.stderr or "plugin API" in done.stderr:
        raise BenchError(f"{qemu(core)} takes no plugin of API version 1; Debian 12's qemu-user 7.2 does")
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return done.stdout, f"status {done.returncode}: {last[:300]}" if done.returncode else ""
