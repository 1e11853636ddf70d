"""What this machine is: its architecture and the CPU features that variants may require.

Features have the names of ``/proc/cpuinfo`` (``avx512f``, ``asimddp``), and some also their usual ones (``sse3``).
"""

from __future__ import annotations

import platform
import struct
from functools import cache

from . import cpu_arm, cpu_riscv, cpu_x86
from .cpuinfo import cpuinfo

_ALIASES = {
    "pni": ("sse3",), "sse4_1": ("sse4.1",), "sse4_2": ("sse4.2",), "abm": ("lzcnt",), "lahf_lm": ("sahf",),
    "asimd": ("neon",), "asimddp": ("dotprod",), "asimdhp": ("fp16",), "fphp": ("fullfp16",), "atomics": ("lse",),
}  # fmt: skip


@cache
def machine() -> str:
    """This process's architecture, as variants name it: ``x86_64``, ``aarch64``, ``armv7``, ``riscv64``, ..."""
    name = platform.machine().lower()
    narrow = struct.calcsize("P") == 4  # a 32-bit Python on a 64-bit kernel
    if name in ("x86_64", "amd64", "i386", "i486", "i586", "i686"):
        return "i686" if narrow else "x86_64"
    if name in ("aarch64", "arm64") or name.startswith("armv"):
        return "armv7" if narrow else "aarch64"
    return name


@cache
def features() -> frozenset[str]:
    """The features of this machine's CPU that programs may use; on a mixed machine, those that all its cores have."""
    arch, info = machine(), cpuinfo()
    if arch in ("x86_64", "i686"):
        found = cpu_x86.features(info)
    elif arch in ("aarch64", "armv7"):
        found = cpu_arm.features(info, arch)
    else:
        found = cpu_riscv.features(info) if arch == "riscv64" else set[str]()
    return frozenset(found | {alias for name in found for alias in _ALIASES.get(name, ())})


@cache
def parts() -> frozenset[str]:
    """The parts that Arm's cores say they are, as ``implementer:part`` (``0x41:0xd08``); empty elsewhere."""
    return frozenset(cpu_arm.parts(cpuinfo())) if machine() in ("aarch64", "armv7") else frozenset()


def missing(required: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the ``required`` features that this machine lacks."""
    here = features()
    return tuple(name for name in required if name not in here)
