"""A layer with a second input on GPUs."""

from __future__ import annotations

from typing import Any

from .cuda import CudaLayer
from .residual import TwoInputs, split_inputs


class CudaResidualLayer(TwoInputs, CudaLayer):
    """``layer(x, residual)`` as ``ResidualLayer``, on a GPU as ``CudaLayer``; both inputs lie in the same memory."""

    def __call__(  # type: ignore[override]
        self, x: Any, residual: Any = None, out: Any = None, stream: Any = None
    ) -> Any:
        """The layer's output for ``x`` with ``residual`` added. ``out`` and ``stream`` as of ``CudaLayer``.

        Raises ``InputError`` for what does not fit and ``DeviceError`` where the GPU fails.
        """
        return self._run_on(split_inputs(x, residual, self._name), out, stream)
