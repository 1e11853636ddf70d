"""NVRTC by ctypes: CUDA C to a cubin or to PTX, on a machine without a GPU or a driver.

The library comes from the package ``nvidia-cuda-nvrtc-cu12`` (the extra ``cuda``), or from an installed CUDA toolkit.
CUDA 12 is meant: drivers of CUDA 12 and 13 load its cubins, while those of CUDA 13 need a new driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path

from sepcompile.errors import CompileError

_FLAGS = (
    "--std=c++17",
    "--fmad=true",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--ftz=false",
    "--disable-warnings",
    # ptxas would rather spill a register or two than lose a block per multiprocessor.
    "--ptxas-options=--register-usage-level=10",
)
_INSTALL = "install sepcompile[cuda]"


def available() -> bool:
    """Whether NVRTC is installed."""
    try:
        _library()
    except CompileError:
        return False
    return True


@cache
def version() -> str:
    """NVRTC's version, such as ``12.9``. Raises ``CompileError`` where it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check("nvrtcVersion", _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def compile_image(source: str, arch: str) -> bytes:
    """The cubin of ``source`` for ``arch`` (``sm_90``), or its PTX (``compute_75``).

    Raises ``CompileError`` with the compiler's first messages.
    """
    library, program = _library(), ctypes.c_void_p()
    text = source.encode()
    _check("nvrtcCreateProgram", library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None))
    try:
        flags = [f"--gpu-architecture={arch}".encode(), *(flag.encode() for flag in _FLAGS)]
        status = library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        if status:
            lines = _bytes(program, "ProgramLog").decode(errors="replace").strip("\0\n").splitlines()
            raise CompileError(f"NVRTC for {arch} ended with {_name(status)}:\n" + "\n".join(lines[:20]))
        ptx = arch.startswith("compute_")
        return _bytes(program, "PTX").rstrip(b"\0") if ptx else _bytes(program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(f"nvrtcGet{what}Size", getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(f"nvrtcGet{what}", getattr(_library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(call: str, status: int) -> None:
    if status:
        raise CompileError(f"{call} ended with {_name(status)}")


def _name(status: int) -> str:
    _library().nvrtcGetErrorString.restype = ctypes.c_char_p
    text = _library().nvrtcGetErrorString(status)
    return text.decode() if text else f"status {status}"


@cache
def _library() -> ctypes.CDLL:
    for path in _candidates():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(path)
    raise CompileError(f"NVRTC, which compiles for CUDA targets, is not installed; {_INSTALL}")


def _candidates() -> list[str]:
    found: list[str] = []
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found += [str(path) for path in sorted(Path(place).glob("lib/libnvrtc.so.1?"))]
    named = ctypes.util.find_library("nvrtc")
    return [*found, "libnvrtc.so.12", *([named] if named else [])]
