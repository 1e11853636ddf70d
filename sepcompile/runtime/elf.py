"""The architecture that an ELF library is for, from its header."""

from __future__ import annotations

from .errors import ArtifactError

_MACHINES = {  # arch: (class: 1 = 32 bit, 2 = 64 bit; e_machine)
    "x86_64": (2, 62),
    "i686": (1, 3),
    "aarch64": (2, 183),
    "armv7": (1, 40),
    "riscv64": (2, 243),
}
ARCHES = tuple(_MACHINES)
"""The architectures a variant may name."""

_SHARED_LIBRARY = 3


def check_library(data: bytes, arch: str, where: str) -> None:
    """Raises ``ArtifactError`` where ``data`` is not the start of a shared ELF library for ``arch``."""
    if len(data) < 64 or data[:4] != b"\x7fELF":
        raise ArtifactError(f"{where}: not an ELF file")
    if data[5] != 1:
        raise ArtifactError(f"{where}: ELF byte order {data[5]}; expected 1 (little endian)")
    kind = int.from_bytes(data[16:18], "little")
    if kind != _SHARED_LIBRARY:
        raise ArtifactError(f"{where}: ELF type {kind}; expected {_SHARED_LIBRARY} (a shared library)")
    found = (data[4], int.from_bytes(data[18:20], "little"))
    if found != _MACHINES[arch]:
        names = [name for name, machine in _MACHINES.items() if machine == found]
        name = names[0] if names else f"ELF class {found[0]}, machine {found[1]}"
        raise ArtifactError(f"{where}: a library for {name}; the manifest says {arch}")
