"""A layer with a second input on GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .bfloat16 import is_bits
from .cuda import DEFAULT_STREAM, CudaLayer, Memory
from .cuda_host import download, host_output, nbytes, stored_input
from .cuda_tensors import empty_like, gpu_device, read_tensor, stream_of
from .errors import InputError
from .residual import TwoInputs, checked_residual, split_inputs


class CudaResidualLayer(TwoInputs, CudaLayer):
    """``layer(x, residual)`` as ``ResidualLayer``, on a GPU as ``CudaLayer``; both inputs lie in the same memory."""

    def __call__(  # type: ignore[override]
        self, x: Any, residual: Any = None, out: Any = None, stream: Any = None
    ) -> Any:
        """The layer's output for ``x`` with ``residual`` added. ``out`` and ``stream`` as of ``CudaLayer``.

        Raises ``InputError`` for what does not fit and ``DeviceError`` where the GPU fails.
        """
        x, residual = split_inputs(x, residual, self._name)
        device = gpu_device(x)
        if device is None:
            return self._from_host(x, residual, out)
        handle = stream_of(x, stream, device)
        source = read_tensor(x, handle, self._name, "x")
        self._check_tensor(source, self._input.shape, self._input.name, "x", device)
        shape = (source.shape[0], *(int(size or 0) for size in self._output.shape[1:]))
        if out is None:
            out = empty_like(x, shape, self._output.name, self._name)
        addresses = []
        for what, value in (("residual", residual), ("out", out)):
            if gpu_device(value) is None:
                raise InputError(f"layer {self._name!r}: x is on GPU {device}, but {what} is not on a GPU")
            tensor = read_tensor(value, handle, self._name, what)
            self._check_tensor(tensor, shape, self._output.name, what, device)
            addresses.append(tensor.address)
        self._compute(device, handle, source.address, addresses[1], source.shape[0], addresses[0])
        return out

    def _from_host(self, x: Any, residual: Any, out: np.ndarray | None) -> np.ndarray:
        array = stored_input(x, self._input, self._name)
        shape = self._shapes_for(array.shape)[1]
        second = residual
        if not (self._output.bfloat16 and isinstance(residual, np.ndarray) and is_bits(residual.dtype)):
            second = checked_residual(residual, self._output, shape, self._name)
        second = stored_input(second, replace(self._output, shape=shape), self._name, "residual")
        out = host_output(x, out, shape, self._output, self._name)
        if out.size == 0:
            return out
        with self._lock:
            bound = self._bound(0)
            with self._driver.current(bound.device):
                memory = bound.memories.setdefault(DEFAULT_STREAM, Memory())
                places = {}
                for name, values in (("x", array), ("r", second)):
                    places[name] = memory.get(self._driver, name, values.nbytes)
                    self._driver.upload(places[name], values.ctypes.data, values.nbytes)
                places["y"] = memory.get(self._driver, "y", nbytes(shape, self._output))
                self._compute(0, DEFAULT_STREAM, places["x"], places["y"], array.shape[0], places["r"])
                download(self._driver, places["y"], out, self._output)
        return out
