"""Runs a compiled variant's kernels with every buffer between guard pages.

The kernels' object code is linked alone and its steps are called one by one, task by task or in one range. Each buffer
ends at (or begins right behind) a page that may not be touched, so any access outside kills the process; cases
therefore run in forked children.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sepcompile.codegen.link import link_objects, memory_object
from sepcompile.codegen.plan import Compiled

PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """``nbytes`` of memory with an inaccessible page on both sides; at the end of its pages or at their start.

    ``shift`` moves the buffer away from the page border by that many bytes, to try alignments.
    """

    def __init__(self, nbytes: int, at_end: bool, shift: int = 0) -> None:
        pages = -(-max(nbytes + shift, 1) // PAGE)
        self._map = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for border in (base, base + (pages + 1) * PAGE):
            if _LIBC.mprotect(border, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.nbytes = nbytes
        self.address = base + PAGE + (pages * PAGE - nbytes - shift if at_end else shift)

    def write(self, array: np.ndarray) -> Guarded:
        data = np.ascontiguousarray(array)
        assert data.nbytes == self.nbytes, (data.nbytes, self.nbytes)
        ctypes.memmove(self.address, data.ctypes.data, data.nbytes)
        return self

    def read(self, dtype: str) -> np.ndarray:
        raw = (ctypes.c_char * self.nbytes).from_address(self.address)
        return np.frombuffer(raw, dtype).copy()


class Kernels:
    """The linked kernels of one variant."""

    def __init__(self, compiled: Compiled, triple: str = "x86_64-linux-musl") -> None:
        self.plan, self.weights = compiled.plan, compiled.weights
        symbols = [step.symbol for step in self.plan.steps]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.so"
            objects = [compiled.object_code, memory_object(triple)]
            path.write_bytes(link_objects(objects, exports=symbols, soname="kernels.so"))
            self._library = ctypes.CDLL(str(path))

    def run(self, x: np.ndarray, dtype: str, at_end: bool = True, shift: int = 0, by_task: bool = False) -> np.ndarray:
        """The output image of the input image ``x``, flat. Intermediates and scratch start out as NaN."""
        plan = self.plan
        buffers = {"x": Guarded(plan.x_bytes, at_end, shift).write(x), "y": _poisoned(plan.y_bytes, at_end, shift)}
        for name, array in self.weights.items():
            buffers[f"w:{name}"] = Guarded(array.nbytes, at_end, shift).write(array)
        for name, nbytes in plan.intermediates:
            buffers[f"t:{name}"] = _poisoned(nbytes, at_end, shift)
        for step in plan.steps:
            scratch = _poisoned(step.scratch_bytes, at_end, 0)
            operands = [ctypes.c_void_p(buffers[name].address) for name in step.operands]
            ranges = [(t, t + 1) for t in reversed(range(step.tasks))] if by_task else [(0, step.tasks)]
            for begin, end in ranges:
                getattr(self._library, step.symbol)(*operands, ctypes.c_void_p(scratch.address), begin, end)
        return buffers["y"].read(dtype)


def _poisoned(nbytes: int, at_end: bool, shift: int) -> Guarded:
    buffer = Guarded(nbytes, at_end, shift)
    ctypes.memset(buffer.address, 0xFF, nbytes)
    return buffer


def in_child(action: Callable[[], None]) -> None:
    """Run ``action`` in a forked child; fail with its traceback, or with the signal that killed it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 0
        try:
            action()
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-60000:])
            status = 1
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise AssertionError(f"killed by signal {os.WTERMSIG(status)}: memory outside a buffer was touched")
    assert status == 0, text
