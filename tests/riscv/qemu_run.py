"""Runs compiled kernels on emulated RISC-V CPUs with vectors, which Unicorn lacks: a program per case, by qemu-user."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sepcompile.codegen.link import compile_c, memory_object
from sepcompile.codegen.plan import Compiled
from sepcompile.targets import Target
from tests.arm.unicorn_run import EmulationError
from tests.c_api.support import run_zig

RUNNER = Path(__file__).with_name("runner.c")
# CPUs by the length of their vectors; "none" has no vector extension.
_V = "rv64,v=true,vext_spec=v1.0"
CPUS = {"none": "rv64,v=false", "128": f"{_V},vlen=128", "256": f"{_V},vlen=256"}


def qemu() -> str:
    """The emulator; skips the test where there is none, or one without vectors."""
    found = shutil.which("qemu-riscv64") or shutil.which("qemu-riscv64-static")
    if found is None:
        pytest.skip("qemu-riscv64 is not found; on Debian it is in the package qemu-user")
    return found


class QemuKernels:
    """The linked kernels of one variant, on CPUs of ``CPUS``."""

    def __init__(self, compiled: Compiled, target: Target) -> None:
        self.plan, self.weights = compiled.plan, compiled.weights
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            parts = [_runner(target.triple), compiled.object_code, memory_object(target.triple)]
            files = [folder / f"{index}.o" for index in range(len(parts))]
            for file, content in zip(files, parts, strict=True):
                file.write_bytes(content)
            run_zig(folder, "ld.lld", "--gc-sections", "-o", "program", *files)
            self.program = (folder / "program").read_bytes()

    def run(
        self, x: np.ndarray, dtype: str, at_end: bool = True, shift: int = 0, by_task: bool = False, cpu: str = "128"
    ) -> np.ndarray:
        """The output image of ``x``, flat. Intermediates and scratch start out as NaN.

        Raises ``EmulationError`` for an access outside a buffer and an instruction that the CPU lacks.
        """
        job = b"".join(self._job(np.ascontiguousarray(x), at_end, shift, by_task))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "program"
            path.write_bytes(self.program)
            path.chmod(0o755)
            command = [qemu(), "-cpu", CPUS[cpu], str(path)]
            done = subprocess.run(command, input=job, capture_output=True, timeout=300, check=False)
        if done.returncode:
            raise EmulationError(f"status {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
        return np.frombuffer(done.stdout, dtype)

    def _job(self, x: np.ndarray, at_end: bool, shift: int, by_task: bool) -> Iterator[bytes]:
        plan = self.plan
        buffers = {"x": x.tobytes(), "y": b"\xff" * plan.y_bytes}
        buffers |= {f"w:{name}": array.tobytes() for name, array in self.weights.items()}
        buffers |= {f"t:{name}": b"\xff" * nbytes for name, nbytes in plan.intermediates}
        scratch = {f"scratch{i}": b"\xff" * step.scratch_bytes for i, step in enumerate(plan.steps)}
        index = {name: number for number, name in enumerate((*buffers, *scratch))}
        assert len(buffers["x"]) == plan.x_bytes
        yield _numbers(len(index))
        for name, content in (buffers | scratch).items():
            yield _numbers(len(content), at_end, 0 if name in scratch else shift) + content
        calls = [
            _numbers(i, len(step.operands) + 1, *(index[name] for name in (*step.operands, f"scratch{i}")), *tasks)
            for i, step in enumerate(plan.steps)
            for tasks in ([(t, t + 1) for t in reversed(range(step.tasks))] if by_task else [(0, step.tasks)])
        ]
        yield _numbers(len(calls)) + b"".join(calls) + _numbers(index["y"])


def _numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


@cache
def _runner(triple: str) -> bytes:
    return compile_c(RUNNER.read_text(), triple=triple, flags=("-fno-pic", "-fvisibility=default"))
