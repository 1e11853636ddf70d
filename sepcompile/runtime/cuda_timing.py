"""Times of a layer's kernels alone: calls recorded in a CUDA graph, which is replayed between two events."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence

from .cuda_driver import Device, Driver
from .errors import DeviceError

_THREAD_LOCAL = 1  # what other threads do is no matter to the recording
_NON_BLOCKING = 1
_L2_BYTES = 38  # attribute of a device
_MOST_COPIES = 48


def copies(lib: Driver, device: Device, nbytes: int) -> int:
    """How many copies of ``nbytes`` of inputs and outputs are more than twice what L2 holds; 2 to 48."""
    size, handle = ctypes.c_int(), ctypes.c_int()
    lib.call("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(device.number))
    lib.call("cuDeviceGetAttribute", ctypes.byref(size), ctypes.c_int(_L2_BYTES), handle)
    return max(2, min(_MOST_COPIES, -(-2 * size.value // max(1, nbytes))))


class Replays:
    """A graph of several calls of a layer, each with memory of its own, so that L2 does not hold it from the last one.

    A replay has no launch from Python in it, which would take longer than a small layer. ``calls``: of one replay.
    """

    def __init__(self, lib: Driver, device: Device, record: Sequence[Callable[[int], None]]) -> None:
        """``record`` launches the kernels of one call each, on a stream's handle."""
        self._lib, self._device, self.calls = lib, device, len(record)
        self._stream, self._graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._begin, self._end = ctypes.c_void_p(), ctypes.c_void_p()
        with lib.current(device):
            lib.call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))
            for event in (self._begin, self._end):
                lib.call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
            graph = self._recorded(record)
            lib.call("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_uint64(0))
            lib.call("cuGraphDestroy", graph)
        self.seconds()

    def seconds(self) -> float:
        """Replays once; seconds per call, as the GPU's own clock counts them."""
        lib, took = self._lib, ctypes.c_float()
        with lib.current(self._device):
            lib.call("cuEventRecord", self._begin, self._stream)
            lib.call("cuGraphLaunch", self._graph, self._stream)
            lib.call("cuEventRecord", self._end, self._stream)
            lib.call("cuEventSynchronize", self._end)
            lib.call("cuEventElapsedTime", ctypes.byref(took), self._begin, self._end)
        return took.value * 1e-3 / self.calls

    def __del__(self) -> None:
        owned = [("cuEventDestroy_v2", self._begin), ("cuEventDestroy_v2", self._end)]
        owned += [("cuGraphExecDestroy", self._graph), ("cuStreamDestroy_v2", self._stream)]
        with contextlib.suppress(DeviceError), self._lib.current(self._device):  # the context may be gone already
            for name, handle in owned:
                if handle.value:
                    self._lib.call(name, handle)

    def _recorded(self, record: Sequence[Callable[[int], None]]) -> ctypes.c_void_p:
        lib, graph = self._lib, ctypes.c_void_p()
        lib.call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            for call in record:
                call(self._stream.value or 0)
        finally:
            lib.call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        return graph
