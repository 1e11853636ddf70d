"""Artifacts for GPUs: their own loader times the kernels in the GPU's memory."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .lane import Json, Lane

USUAL_BATCH = 32  # images of a call where any number is allowed: what such a layer's schedules are chosen for
LIBRARY = "libcuda.so.1"
_NAME = f"""
import ctypes
lib, count, device, name = ctypes.CDLL({LIBRARY!r}), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
assert not lib.cuInit(0) and not lib.cuDeviceGetCount(ctypes.byref(count)) and count.value
assert not lib.cuDeviceGet(ctypes.byref(device), 0) and not lib.cuDeviceGetName(name, 256, device)
print(name.value.decode(errors="replace"))
"""


def gpu_name() -> str:
    """The first GPU's name; empty where there is none. Another process asks: who has used the driver must not fork."""
    try:
        ctypes.CDLL(LIBRARY)
        done = subprocess.run([sys.executable, "-c", _NAME], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def is_for_gpu(folder: str) -> bool:
    """Whether all variants of an artifact are for GPUs."""
    try:
        variants = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))["variants"]
        return all(variant["family"] == "cuda" for variant in variants)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # its loader will say what is wrong with it


class GpuLane(Lane):
    """An artifact whose kernels run on GPU 0. Copies to and from the GPU are checked with them, but not timed.

    The GPU's memory has no guard pages; what is written outside a tensor is seen where it changes another's values.
    """

    replays: Any = None

    def warm(self) -> Json:
        """Have the loader record calls of a usual size in a graph, and replay it."""
        self.layer = self.package.load()
        inputs = [np.array(x) for x in self.test.inputs]
        if self.layer.input_shape[0] is None:
            inputs = [np.resize(x, (USUAL_BATCH, *x.shape[1:])) for x in inputs]
        self.replays = self.layer.replays(*inputs)
        self._replayed(self.request.warm_ms)
        return {"calls": self.replays.calls}

    def round(self) -> Json:
        """One turn: the best and the median replay, in microseconds per call."""
        ordered = sorted(self._replayed(self.request.round_ms))
        return {"best_us": ordered[0], "median_us": ordered[len(ordered) // 2]}

    def _replayed(self, milliseconds: float) -> list[float]:
        """Microseconds per call of two replays or more."""
        times: list[float] = []
        while len(times) < 2 or sum(times) * self.replays.calls < milliseconds * 1e3:
            times.append(self.replays.seconds() * 1e6)
        return times

    def _guarded_call(self, layer: Any) -> Any:
        # The result of NaN is left in the GPU's memory, where an element that the next call does not write shows.
        layer(*(np.full_like(x, np.nan) for x in self.test.inputs))
        return super()._guarded_call(layer)
