"""The CUDA driver by ctypes: devices, modules, memory and launches; nothing else of CUDA is needed on a device."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ArtifactError, DeviceError

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # attributes of a device
_OUT_OF_MEMORY, _NO_BINARY = 2, 209
_RELAXED = 2  # a thread's capture mode in which memory may be allocated while a graph is recorded
_VP, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_SIGNATURES = {
    "cuInit": (_UINT,),
    "cuDeviceGetCount": (_VP,),
    "cuDeviceGet": (_VP, _INT),
    "cuDeviceGetName": (_VP, _INT, _INT),
    "cuDeviceGetAttribute": (_VP, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_VP, _INT),
    "cuCtxPushCurrent_v2": (_VP,),
    "cuCtxPopCurrent_v2": (_VP,),
    "cuModuleLoadData": (_VP, _VP),
    "cuModuleGetFunction": (_VP, _VP, ctypes.c_char_p),
    "cuMemAlloc_v2": (_VP, _SIZE),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemcpyHtoD_v2": (ctypes.c_uint64, _VP, _SIZE),
    "cuMemcpyDtoH_v2": (_VP, ctypes.c_uint64, _SIZE),
    "cuStreamSynchronize": (_VP,),
    "cuStreamIsCapturing": (_VP, _VP),
    "cuThreadExchangeStreamCaptureMode": (_VP,),
    "cuLaunchKernel": (_VP, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _VP, _VP, _VP),
    "cuGetErrorName": (_INT, _VP),
    "cuGetErrorString": (_INT, _VP),
}


@dataclass(frozen=True)
class Device:
    """One GPU: its number, name and compute capability (9, 0), and the primary context that frameworks share."""

    number: int
    name: str
    capability: tuple[int, int]
    context: int

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name}, compute capability {self.capability[0]}.{self.capability[1]})"


class Driver:
    """The functions of the driver, checked. Raises ``ArtifactError`` where there is none, or no GPU."""

    def __init__(self, library: str) -> None:
        try:
            self._lib = ctypes.CDLL(library)
            for name, types in _SIGNATURES.items():
                getattr(self._lib, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"no CUDA driver on this machine: {error}") from error
        self.check("cuInit", self._lib.cuInit(0))
        count = ctypes.c_int()
        self.check("cuDeviceGetCount", self._lib.cuDeviceGetCount(ctypes.byref(count)))
        if count.value < 1:
            raise ArtifactError("the CUDA driver finds no GPU on this machine")
        self.devices = count.value
        self.launch = self._lib.cuLaunchKernel
        self._known: dict[int, Device] = {}
        self._lock = threading.Lock()

    def device(self, number: int) -> Device:
        """GPU ``number``, its context retained for as long as the process lives."""
        with self._lock:
            if number not in self._known:
                self._known[number] = self._open(number)
            return self._known[number]

    def capability(self, number: int) -> tuple[int, int]:
        """The compute capability of GPU ``number``; makes no context."""
        handle, value = ctypes.c_int(), ctypes.c_int()
        self.check("cuDeviceGet", self._lib.cuDeviceGet(ctypes.byref(handle), number))
        found = []
        for attribute in (_MAJOR, _MINOR):
            status = self._lib.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
            self.check("cuDeviceGetAttribute", status)
            found.append(value.value)
        return found[0], found[1]

    def _open(self, number: int) -> Device:
        if not 0 <= number < self.devices:
            raise ArtifactError(f"GPU {number} does not exist; the driver finds {self.devices}")
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self.check("cuDeviceGet", self._lib.cuDeviceGet(ctypes.byref(handle), number))
        name = ctypes.create_string_buffer(256)
        self.check("cuDeviceGetName", self._lib.cuDeviceGetName(name, 256, handle))
        self.check("cuDevicePrimaryCtxRetain", self._lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle))
        return Device(number, name.value.decode(errors="replace"), self.capability(number), context.value or 0)

    @contextlib.contextmanager
    def current(self, device: Device) -> Iterator[None]:
        """Makes ``device``'s context the thread's, and gives the thread its own back."""
        self.check("cuCtxPushCurrent", self._lib.cuCtxPushCurrent_v2(device.context))
        try:
            yield
        finally:
            self._lib.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def module(self, image: bytes) -> int:
        """A loaded image; the context must be current."""
        module = ctypes.c_void_p()
        # PTX is text and must end in a zero byte, which a bytes object has behind its data.
        status = self._lib.cuModuleLoadData(ctypes.byref(module), ctypes.c_char_p(image))
        self.check("cuModuleLoadData", status)
        return module.value or 0

    def function(self, module: int, name: str) -> int:
        """A kernel of a module."""
        function = ctypes.c_void_p()
        self.check(name, self._lib.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        return function.value or 0

    @contextlib.contextmanager
    def relaxed(self) -> Iterator[None]:
        """Lets the thread allocate and upload also while one of its streams records a graph."""
        mode = ctypes.c_int(_RELAXED)
        self._lib.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
        try:
            yield
        finally:
            self._lib.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))

    def allocate(self, nbytes: int) -> int:
        """Device memory."""
        pointer = ctypes.c_uint64()
        with self.relaxed():
            status = self._lib.cuMemAlloc_v2(ctypes.byref(pointer), max(nbytes, 16))
        self.check(f"{nbytes} bytes of GPU memory", status)
        return pointer.value

    def free(self, pointer: int) -> None:
        """Gives memory back; the driver waits for work that uses it."""
        self._lib.cuMemFree_v2(pointer)

    def upload(self, pointer: int, address: int, nbytes: int) -> None:
        """Copies host memory to the device."""
        if nbytes:
            self.check("cuMemcpyHtoD", self._lib.cuMemcpyHtoD_v2(pointer, address, nbytes))

    def download(self, address: int, pointer: int, nbytes: int) -> None:
        """Copies device memory to the host, after everything before it on the default stream."""
        if nbytes:
            self.check("cuMemcpyDtoH", self._lib.cuMemcpyDtoH_v2(address, pointer, nbytes))

    def capturing(self, stream: int) -> bool:
        """Whether a graph is being recorded on ``stream``."""
        state = ctypes.c_int()
        return self._lib.cuStreamIsCapturing(stream, ctypes.byref(state)) == 0 and state.value == 1

    def synchronize(self, stream: int) -> None:
        """Waits for a stream."""
        self.check("cuStreamSynchronize", self._lib.cuStreamSynchronize(stream))

    def call(self, name: str, *arguments: object) -> None:
        """A function that layers do not need to run, with arguments of ctypes; checked."""
        function = getattr(self._lib, name, None)
        if function is None:
            raise DeviceError(f"the CUDA driver has no {name}; a newer driver has")
        self.check(name, function(*arguments))

    def check(self, what: str, status: int) -> None:
        """Raises ``DeviceError`` for a status that is not zero."""
        if status == 0:
            return
        name = self._text("cuGetErrorName", status) or f"status {status}"
        detail = self._text("cuGetErrorString", status)
        if status == _OUT_OF_MEMORY:
            raise DeviceError(f"the GPU has too little memory: {what} could not be allocated ({name})")
        if status == _NO_BINARY:
            raise ArtifactError(f"{what}: the image does not fit this GPU ({name})")
        raise DeviceError(f"{what} failed: {name}{f', {detail}' if detail else ''}")

    def _text(self, function: str, status: int) -> str:
        text = ctypes.c_char_p()
        if getattr(self._lib, function)(status, ctypes.byref(text)) != 0 or text.value is None:
            return ""
        return text.value.decode(errors="replace")


_DRIVERS: dict[str, Driver] = {}


def driver() -> Driver:
    """This machine's driver. Raises ``ArtifactError`` where there is none, or no GPU."""
    if LIBRARY not in _DRIVERS:
        _DRIVERS[LIBRARY] = Driver(LIBRARY)
    return _DRIVERS[LIBRARY]
