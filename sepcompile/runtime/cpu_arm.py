"""CPU features of Arm, 64 and 32 bit."""

from __future__ import annotations

from .auxv import AT_HWCAP, AT_HWCAP2, auxiliary
from .cpuinfo import words_per_core

# Bit 0 first, as the kernel's <asm/hwcap.h> has them.
_HWCAP_64 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
_HWCAP2_64 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16"
)
_HWCAP_32 = (
    "swp half thumb 26bit fastmult fpa vfp edsp java iwmmxt crunch thumbee neon vfpv3 vfpv3d16 tls vfpv4 idiva idivt "
    "vfpd32 lpae evtstrm"
)


def features(info: str, arch: str) -> set[str]:
    """What the kernel tells this process (its auxiliary vector); without it, what ``/proc/cpuinfo`` lists per core.

    The vector is what all cores of a mixed machine have. The file is read only where a C library lacks ``getauxval``:
    it shows 64-bit names to a 32-bit process, and it may be another machine's under emulation.
    """
    narrow = arch == "armv7"
    found = _bits(AT_HWCAP, _HWCAP_32) if narrow else _bits(AT_HWCAP, _HWCAP_64) | _bits(AT_HWCAP2, _HWCAP2_64)
    return found or words_per_core(info, "Features")


def parts(info: str) -> set[str]:
    """The distinct ``implementer:part`` of the cores in ``/proc/cpuinfo``."""
    found: set[str] = set()
    implementer = ""
    for line in info.splitlines():
        key, _, value = (text.strip() for text in line.partition(":"))
        if key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            found.add(f"{implementer}:{value}")
    return found


def _bits(entry: int, names: str) -> set[str]:
    word = auxiliary(entry)
    return {name for bit, name in enumerate(names.split()) if word >> bit & 1}
