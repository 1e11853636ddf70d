"""What the kernel gave this process at its start: the auxiliary vector."""

from __future__ import annotations

import ctypes

AT_HWCAP, AT_HWCAP2 = 16, 26


def auxiliary(entry: int) -> int:
    """An entry of the vector; 0 where there is none, or a C library without ``getauxval``."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return 0
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(entry))
