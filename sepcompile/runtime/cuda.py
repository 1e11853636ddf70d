"""A layer that runs on GPUs: kernels from the artifact's images, launched through the driver alone."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .bound import BoundCall
from .cuda_driver import Device, Driver, driver
from .cuda_host import download, host_output, nbytes, stored_input, stored_residual
from .cuda_manifest import CudaEntry, ImageEntry, LaunchEntry, choose_image
from .cuda_tensors import GpuTensor, empty_like, gpu_device, is_stream_known, read_tensor, stream_of
from .cuda_timing import Replays, copies
from .errors import ArtifactError, DeviceError, InputError
from .inputs import TensorSpec, check_shape, describe
from .layer import Layer
from .manifest import RESIDUAL, PlanEntry, StepEntry
from .results import SelfTest

DEFAULT_STREAM = 0


@dataclass
class Memory:
    """Growing device memory, one piece per name."""

    pieces: dict[str, tuple[int, int]] = field(default_factory=dict)

    def get(self, lib: Driver, name: str, nbytes: int) -> int:
        pointer, size = self.pieces.get(name, (0, 0))
        if size < nbytes:
            if pointer:
                del self.pieces[name]
                lib.free(pointer)
            pointer = lib.allocate(nbytes)
            self.pieces[name] = (pointer, nbytes)
        return pointer


@dataclass(frozen=True)
class _Bound:
    """The layer on one GPU: its functions and weights, and memory for the intermediates of each stream."""

    device: Device
    functions: tuple[int, ...]
    weights: dict[str, int]
    memories: dict[int, Memory] = field(default_factory=dict)
    recorded: list[Memory] = field(default_factory=list)


class CudaLayer(Layer):
    """``layer(x)`` on a GPU: of a NumPy array with copies both ways, of a GPU's tensor where it lies.

    A GPU's tensor (PyTorch, CuPy, or anything with ``__dlpack__``) is read and written on the stream that its library
    works on, or on ``stream``, without waiting; the call can be recorded in a CUDA graph. Of other libraries (JAX) no
    stream is known: without ``stream`` the call returns when the result is there.
    """

    def __init__(
        self,
        *,
        name: str,
        variant: str,
        plan: PlanEntry,
        cuda: CudaEntry,
        read_image: Callable[[ImageEntry], bytes],
        weights: Mapping[str, np.ndarray],
        input_spec: TensorSpec,
        output_spec: TensorSpec,
        selftest: Callable[[], SelfTest] | None = None,
    ) -> None:
        self._name, self._variant, self._threads = name, variant, 1
        self._input, self._output = input_spec, output_spec
        self._in_dtype, self._out_dtype = input_spec.dtype, output_spec.dtype
        self._selftest = selftest
        self._shapes = ((-1,), (), 0, 0)
        self._plan, self._cuda = plan, cuda
        self._read_image, self._host_weights = read_image, dict(weights)
        self._driver = driver()
        self._devices: dict[int, _Bound] = {}
        self._lock = threading.RLock()
        self._most_batch = min(launch.most_batch for launch in cuda.launches)

    def __repr__(self) -> str:
        return f"<CudaLayer {self._name!r}: {self._input} -> {self._output}, {self._variant}>"

    def __call__(self, x: Any, out: Any = None, stream: Any = None) -> Any:
        """The layer's output for ``x``, in ``out`` or a new array or tensor of the library of ``x``.

        ``x``: NumPy and what converts to it (computed on GPU 0), or a C-contiguous tensor in a GPU's memory. For a
        bfloat16 layer NumPy's float32 is rounded and comes back as float32, and bits (uint16, or ml_dtypes) as bits.
        ``stream``: a stream's handle, or an object with ``__cuda_stream__``; only for a GPU's tensor.
        Raises ``InputError`` for what does not fit and ``DeviceError`` where the GPU fails.
        """
        return self._run_on((x,), out, stream)

    def bind(self, *inputs: Any, out: Any = None) -> BoundCall:
        """As ``Layer.bind``, for NumPy arrays and for tensors in a GPU's memory; a CUDA graph is faster for these."""
        call: Callable[..., Any] = self
        out = call(*inputs, out=out)
        return BoundCall(inputs, out, lambda: (partial(call, *inputs, out=out), self))

    def replays(self, *inputs: np.ndarray) -> Replays:
        """For measuring: a graph of calls with copies of ``inputs`` in the memory of GPU 0, see ``Replays``.

        Its memory is given back with the layer's own. Raises as a call does.
        """
        arrays, shape = self._stored(inputs)
        sizes = {**{name: array.nbytes for name, array in arrays.items()}, "y": nbytes(shape, self._output)}
        with self._lock:
            bound = self._bound(0)
            bound.recorded.append(memory := Memory())
            calls = []
            with self._driver.current(bound.device):
                for number in range(copies(self._driver, bound.device, sum(sizes.values()))):
                    places = {name: memory.get(self._driver, f"{name}{number}", size) for name, size in sizes.items()}
                    for name, array in arrays.items():
                        self._driver.upload(places[name], array.ctypes.data, array.nbytes)
                    calls.append(partial(self._compute, 0, places=places, batch=shape[0]))
                return Replays(self._driver, bound.device, calls)

    def _run_on(self, inputs: tuple[Any, ...], out: Any, stream: Any) -> Any:
        """A call: where ``x``, the first of ``inputs``, lies on a GPU, on that GPU and without copies."""
        x, *others = inputs
        device = gpu_device(x)
        if device is None:
            return self._run_from_host(inputs, out)
        handle = stream_of(x, stream, device)
        source = read_tensor(x, handle, self._name, "x")
        self._check_tensor(source, self._input.shape, self._input.name, "x", device)
        shape = (source.shape[0], *(int(size or 0) for size in self._output.shape[1:]))
        if out is None:
            out = empty_like(x, shape, self._output.name, self._name)
        tensors = {"x": source}
        for name, what, value in (*((RESIDUAL, "residual", other) for other in others), ("y", "out", out)):
            if gpu_device(value) is None:
                raise InputError(f"layer {self._name!r}: x is on GPU {device}, but {what} is not on a GPU")
            tensors[name] = read_tensor(value, handle, self._name, what)
            self._check_tensor(tensors[name], shape, self._output.name, what, device)
        self._compute(device, handle, {name: tensor.address for name, tensor in tensors.items()}, shape[0])
        if not is_stream_known(x, stream):
            self._wait(device, handle)
        return out

    def _wait(self, device: int, stream: int) -> None:
        """Until the work on a stream is done."""
        with self._driver.current(self._bound(device).device):
            self._driver.synchronize(stream)

    def _check_tensor(
        self, tensor: GpuTensor, shape: Sequence[int | None], dtype: str, what: str, device: int
    ) -> None:
        if tensor.device != device:
            raise InputError(f"layer {self._name!r}: {what} is on GPU {tensor.device}, but x is on GPU {device}")
        if tensor.dtype != dtype:
            raise InputError(f"layer {self._name!r}: {what} has dtype {tensor.dtype}; expected {dtype}")
        if what == "x":
            check_shape(tensor.shape, self._input, self._name, what)
        elif tensor.shape != tuple(shape):
            found, wanted = describe(tensor.shape), describe(tuple(shape))
            raise InputError(f"layer {self._name!r}: {what} has shape {found}; expected {wanted}")

    def _stored(self, inputs: tuple[Any, ...]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
        """The inputs by the kernels' names, as they lie in a GPU's memory, and the output's shape."""
        x, *others = inputs
        arrays = {"x": stored_input(x, self._input, self._name)}
        shape = self._shapes_for(arrays["x"].shape)[1]
        for other in others:
            arrays[RESIDUAL] = stored_residual(other, self._output, shape, self._name)
        return arrays, shape

    def _run_from_host(self, inputs: tuple[Any, ...], out: Any) -> Any:
        """A call with NumPy arrays: on GPU 0, with copies both ways."""
        arrays, shape = self._stored(inputs)
        out = host_output(inputs[0], out, shape, self._output, self._name)
        if out.size == 0:
            return out
        with self._lock:
            bound = self._bound(0)
            with self._driver.current(bound.device):
                memory = bound.memories.setdefault(DEFAULT_STREAM, Memory())
                places = {name: memory.get(self._driver, name, array.nbytes) for name, array in arrays.items()}
                places["y"] = memory.get(self._driver, "y", nbytes(shape, self._output))
                for name, array in arrays.items():
                    self._driver.upload(places[name], array.ctypes.data, array.nbytes)
                self._compute(0, DEFAULT_STREAM, places, shape[0])
                download(self._driver, places["y"], out, self._output)
        return out

    def _compute(self, device: int, stream: int, places: Mapping[str, int], batch: int) -> None:
        """Launches the kernels; more images than int32 indices can count go in several rounds."""
        image_bytes = {"x": self._plan.x_bytes, "y": self._plan.y_bytes, RESIDUAL: self._plan.y_bytes}
        with self._lock:
            bound = self._bound(device)
            with self._driver.current(bound.device):
                for start in range(0, batch, self._most_batch):
                    count = min(self._most_batch, batch - start)
                    at = {name: place + start * image_bytes[name] for name, place in places.items()}
                    self._launch(bound, stream, {**bound.weights, **at}, count)

    def _launch(self, bound: _Bound, stream: int, pointers: dict[str, int], batch: int) -> None:
        if self._plan.intermediates:
            memory = self._memory(bound, stream)
            for name, nbytes in self._plan.intermediates:
                pointers[f"t:{name}"] = memory.get(self._driver, name, nbytes * batch)
        steps = zip(self._plan.steps, self._cuda.launches, bound.functions)  # noqa: B905 - Python 3.9 has no strict=
        for step, launch, function in steps:
            _launch_kernel(self._driver, function, step, launch, pointers, batch, stream)

    def _memory(self, bound: _Bound, stream: int) -> Memory:
        """The intermediates of a stream. What a graph records must stay where it is for as long as the layer lives."""
        if self._driver.capturing(stream):
            bound.recorded.append(Memory())
            return bound.recorded[-1]
        return bound.memories.setdefault(stream, Memory())

    def _bound(self, number: int) -> _Bound:
        if number not in self._devices:
            device = self._driver.device(number)
            with self._driver.current(device), self._driver.relaxed():
                self._devices[number] = self._bind(device)
                # Streams that do not wait for the default one must find the weights there.
                self._driver.synchronize(DEFAULT_STREAM)
        return self._devices[number]

    def _bind(self, device: Device) -> _Bound:
        image = choose_image(self._cuda.images, device.capability)
        if image is None:
            raise ArtifactError(f"layer {self._name!r}: {device} cannot run variant {self._variant!r}: {self._needs()}")
        module = self._driver.module(self._read_image(image))
        functions = tuple(self._driver.function(module, step.symbol) for step in self._plan.steps)
        weights = {}
        for name, array in self._host_weights.items():
            data = np.ascontiguousarray(array)
            weights[f"w:{name}"] = self._driver.allocate(data.nbytes)
            self._driver.upload(weights[f"w:{name}"], data.ctypes.data, data.nbytes)
        return _Bound(device, functions, weights)

    def _needs(self) -> str:
        return f"its images are for {', '.join(image.arch for image in self._cuda.images)}"

    def __del__(self) -> None:
        for bound in getattr(self, "_devices", {}).values():
            pointers = list(bound.weights.values())
            for memory in [*bound.memories.values(), *bound.recorded]:
                pointers += [pointer for pointer, _ in memory.pieces.values()]
            try:
                with self._driver.current(bound.device):
                    for pointer in pointers:
                        self._driver.free(pointer)
            except DeviceError:  # the process ends, and its context is gone already
                return


def _launch_kernel(
    lib: Driver, function: int, step: StepEntry, launch: LaunchEntry, pointers: dict[str, int], batch: int, stream: int
) -> None:
    rows = batch * launch.unit
    blocks = -(-rows // launch.tile) * launch.times
    scalars = {"rows": rows, "blocks": blocks}
    values = [
        ctypes.c_int32(scalars[name]) if name in scalars else ctypes.c_uint64(pointers[name]) for name in step.operands
    ]
    parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    shape = (blocks, launch.grid_y, 1, *launch.block)
    status = lib.launch(function, *shape, launch.shared_bytes, stream, ctypes.addressof(parameters), None)
    lib.check(step.symbol, status)


def missing(cuda: CudaEntry) -> tuple[str, ...]:
    """What this machine lacks to run a variant on one of its GPUs, in words; empty where it can."""
    try:
        lib = driver()
        found = [lib.capability(number) for number in range(lib.devices)]
    except (ArtifactError, DeviceError) as error:
        return (str(error),)
    if any(choose_image(cuda.images, capability) for capability in found):
        return ()
    names = ", ".join(f"{major}.{minor}" for major, minor in found)
    wanted = ", ".join(image.arch for image in cuda.images)
    return (f"a GPU for {wanted} (this machine's have compute capability {names})",)
