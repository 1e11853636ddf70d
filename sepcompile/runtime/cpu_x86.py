"""CPU features of x86."""

from __future__ import annotations

import importlib
from typing import Any

from .cpuinfo import words_per_core

# What NumPy's own detection calls the features; it knows those that come in whole groups (x86-64-v2, v3, v4).
_NUMPY = {
    "SSE3": ("pni",), "SSSE3": ("ssse3",), "SSE41": ("sse4_1",), "SSE42": ("sse4_2", "cx16", "lahf_lm"),
    "POPCNT": ("popcnt",), "AVX": ("avx", "xsave"), "F16C": ("f16c",), "FMA3": ("fma",),
    "AVX2": ("avx2", "bmi1", "bmi2", "movbe", "abm"), "AVX512F": ("avx512f",), "AVX512CD": ("avx512cd",),
    "AVX512BW": ("avx512bw",), "AVX512DQ": ("avx512dq",), "AVX512VL": ("avx512vl",), "AVX512VNNI": ("avx512_vnni",),
    "AVX512BF16": ("avx512_bf16",), "AVX512FP16": ("avx512_fp16",),
}  # fmt: skip


def features(info: str) -> set[str]:
    """From the text of ``/proc/cpuinfo``; without one, what NumPy found by the CPUID instruction."""
    # The kernel leaves out what it does not enable (AVX without XSAVE), so that its list can be believed.
    return words_per_core(info, "flags") or _from_numpy()


def _from_numpy() -> set[str]:
    for package in ("numpy._core", "numpy.core"):  # NumPy 2, NumPy 1
        try:
            core: Any = importlib.import_module(f"{package}._multiarray_umath")
        except ImportError:
            continue
        known = getattr(core, "__cpu_features__", {})
        return {name for group, names in _NUMPY.items() if known.get(group) for name in names}
    return set()
