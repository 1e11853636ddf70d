"""The kernel's description of the CPU."""

from __future__ import annotations

from pathlib import Path


def cpuinfo() -> str:
    """The text of ``/proc/cpuinfo``; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def words_per_core(info: str, key: str) -> set[str]:
    """The words after ``key :`` in ``/proc/cpuinfo`` that every core lists."""
    lines = [line.partition(":")[2] for line in info.splitlines() if line.partition(":")[0].strip() == key]
    return set.intersection(*(set(line.split()) for line in lines)) if lines else set()
