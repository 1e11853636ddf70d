"""Generated CUDA C as a shared library for the CPU, and a driver that launches it: a GPU without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from sepcompile.codegen.data import data_folder
from sepcompile.codegen.link import zig
from sepcompile.codegen.plan import Compiled

_HERE = Path(__file__).parent
_FLAGS = ("-O1", "-g0", "-fPIC", "-shared", "-fno-strict-aliasing", "-fno-sanitize=all", "-w")
_BARRIER = re.escape("__syncthreads();")
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\);')


@cache
def folder() -> Path:
    """Where this process keeps what it builds."""
    return Path(tempfile.mkdtemp(prefix="sepcompile-cuda-tests-"))


@cache
def standin_driver() -> Path:
    """The stand-in for libcuda.so.1, under another name, so that TVM in the same process does not take it for one."""
    return _standin("libstandin.so")


@cache
def standin_as_driver() -> Path:
    """The stand-in under the driver's own name, for other processes: where it is loaded, every loader finds it."""
    return _standin("libcuda.so.1")


def _standin(name: str) -> Path:
    path = folder() / "driver" / name
    path.parent.mkdir(exist_ok=True)
    flags = ("-O1", "-fPIC", "-shared", "-w", "-ldl", f"-Wl,-soname,{name}")
    _zig("cc", *flags, str(_HERE / "standin_driver.c"), "-o", str(path))
    return path


def emulated(compiled: Compiled, source: str, arch: str = "sm_90") -> Compiled:
    """The variant with one image: ``source``, its kernels in CUDA C, as a library for the CPU."""
    return dataclasses.replace(compiled, images=((arch, library(source)),))


def barriers(source: str) -> int:
    """How many barriers the kernels of ``source`` have."""
    return len(re.findall(_BARRIER, source))


def library(source: str, software: bool = False) -> bytes:
    """The shared library of all kernels in ``source``; their barriers are numbered from 0.

    ``software``: bfloat16 and TF32 are multiplied as on a GPU whose tensor cores do not know them.
    """
    # Clang wants alignas in front of everything else.
    source = source.replace("__shared__ alignas(64)", "__shared__ __attribute__((aligned(64)))")
    numbers = itertools.count()
    source = re.sub(_BARRIER, lambda _: f"sep_barrier({next(numbers)});", source)
    defined = "#define SEP_SOFTWARE_MMA\n" if software else ""
    wrappers = "".join(_wrapper(*found) for found in _KERNEL.findall(source))
    text = f'{defined}#include "host_prelude.h"\n{source}{wrappers}'
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    code, built = folder() / f"{name}.cc", folder() / f"{name}.so"
    if not built.exists():
        code.write_text(text)
        _zig("c++", *_FLAGS, "-nostdlib++", f"-I{_HERE}", f"-I{data_folder('templates')}", str(code), "-o", str(built))
    return built.read_bytes()


def _wrapper(name: str, parameters: str) -> str:
    types = [parameter.replace("__restrict__", "").rsplit(None, 1)[0].strip() for parameter in parameters.split(",")]
    values = ", ".join(f"*({kind}*)params[{index}]" for index, kind in enumerate(types))
    return (
        f"static void body_{name}(void **params) {{ {name}({values}); }}\n"
        f'extern "C" int run_{name}(const unsigned *grid, const unsigned *block, void **params) '
        f"{{ return sep_run(body_{name}, grid, block, params); }}\n"
        f'extern "C" const int count_{name} = {len(types)};\n'
    )


def _zig(*arguments: str) -> None:
    # A cache for the whole process: zig would otherwise build its libc's stubs again for each kernel.
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder() / "cache"), "ZIG_LOCAL_CACHE_DIR": str(folder() / "cache")}
    done = subprocess.run([str(zig()), *arguments], env={**os.environ, **caches}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
