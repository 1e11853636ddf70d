"""CPU features of RISC-V: the letters of its extensions, and the longer names that ``/proc/cpuinfo`` lists."""

from __future__ import annotations

import ctypes

from .auxv import AT_HWCAP, auxiliary
from .cpuinfo import words_per_core

# <asm/hwprobe.h>, Linux 6.5: the system call, a key, and the bit of its value that is V of version 1.0.
_HWPROBE, _IMA_EXT_0, _IMA_V = 258, 4, 1 << 2


def features(info: str) -> set[str]:
    """What the kernel tells this process (its auxiliary vector); without it, the letters in ``/proc/cpuinfo``.

    ``v`` is the vector extension of version 1.0. CPUs with a draft of it (0.7), on which its code dies or computes
    wrongly, show the same letter; they are told apart as ``_ratified`` says.
    """
    listed = _listed(info)
    word = auxiliary(AT_HWCAP)
    letters = {chr(ord("a") + bit) for bit in range(26) if word >> bit & 1} or {n for n in listed if len(n) == 1}
    if not _ratified(info, listed):
        letters.discard("v")
    return letters | {name for name in listed if len(name) > 1}


def _listed(info: str) -> set[str]:
    """The extensions that every core lists: ``rv64imafdcv_zba`` are six letters and a name."""
    cores = []
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "isa":
            letters, *names = value.strip().lower().split("_")
            cores.append(set(letters[4:]) | set(names))
    return set.intersection(*cores) if cores else set()


def _ratified(info: str, listed: set[str]) -> bool:
    """Whether the letter V can be believed.

    Kernels since 6.5 answer by a system call. Vendors' older ones are believed where they also list the parts that
    version 1.0 has (``zve64d``), which drafts did not name; so is an emulator, which describes another CPU.
    """
    found = _probed(_IMA_EXT_0)
    if found is not None:
        return bool(found & _IMA_V)
    return "zve64d" in listed or not words_per_core(info, "isa")


class _Pair(ctypes.Structure):
    _fields_ = (("key", ctypes.c_int64), ("value", ctypes.c_uint64))


def _probed(key: int) -> int | None:
    """What the kernel says of all CPUs about ``key``; None where it has no such call or does not know the key."""
    try:
        syscall = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return None
    syscall.restype, size = ctypes.c_long, ctypes.c_size_t
    syscall.argtypes = [ctypes.c_long, ctypes.POINTER(_Pair), size, size, ctypes.c_void_p, ctypes.c_ulong]
    pair = _Pair(key, 0)
    if syscall(_HWPROBE, ctypes.byref(pair), 1, 0, None, 0) != 0 or pair.key != key:
        return None
    return int(pair.value)
