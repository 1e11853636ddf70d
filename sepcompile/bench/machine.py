"""The machine in words: what a reader needs to know before comparing numbers with another report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# The flags that decide which kernels a library picks; the full list would only bury them.
FLAGS = (
    "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "neon", "asimd", "asimddp", "sve",
)  # fmt: skip


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries."""
    found: dict[str, str] = {}
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return found
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    return found


def _size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)


def caches() -> list[tuple[str, int]]:
    """Data caches of the first CPU, as (``L1``, bytes), from near to far."""
    found = []
    for folder in sorted(CACHES.glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            size = _size((folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified"):
            found.append((f"L{level}", size))
    return sorted(found)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def describe() -> dict[str, Any]:
    """CPU, caches, memory, kernel and our own versions. No host name, no paths."""
    info = _cpuinfo()
    present = set((info.get("flags") or info.get("Features") or "").split())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "vendor": info.get("vendor_id", ""),
        "family": info.get("cpu family", ""),
        "model": info.get("model", ""),
        "mhz_now": info.get("cpu MHz", ""),
        "flags": [flag for flag in FLAGS if flag in present],
        "hypervisor": "hypervisor" in present,
        "cpus": os.cpu_count() or 0,
        "cpus_usable": len(os.sched_getaffinity(0)),
        "caches": dict(caches()),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "sepcompile": _installed("sepcompile") or "development",
        "tvm": _installed("apache-tvm"),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "platform": sys.platform,
    }
