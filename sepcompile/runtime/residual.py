"""A layer with a second input, which is added to its result: the skip connection of a residual block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .buffers import address_of, aligned_empty
from .cuda_tensors import gpu_device
from .errors import InputError
from .inputs import TensorSpec, as_input, check_out, describe
from .layer import Layer


class TwoInputs(Layer):
    """What layers with a second input share, whatever they run on."""

    @property
    def takes_residual(self) -> bool:
        """True."""
        return True

    def random_inputs(self, batch: int = 1, seed: int = 0) -> tuple[np.ndarray, ...]:
        """``x`` and ``residual`` of normally distributed numbers; ``batch`` is for a layer with any."""
        (x,) = super().random_inputs(batch, seed)
        shape = self._shapes_for(x.shape)[1]
        second = np.random.default_rng(seed + 1).standard_normal(shape).astype(self._out_dtype)
        return x, second


class ResidualLayer(TwoInputs):
    """``layer(x, residual)`` or ``layer([x, residual])``, where ``residual`` has the shape and dtype of the output.

    The addition is part of the kernels, in place of a pass over memory after them. Otherwise as ``Layer``.
    """

    def __call__(  # type: ignore[override]
        self, x: Any, residual: Any = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The layer's output for ``x`` with ``residual`` added, in ``out`` or a new array.

        Both inputs as ``x`` of ``Layer``; a list of the two will do. ``out`` must lie apart from both of them.
        Raises ``InputError``.
        """
        x, residual = split_inputs(x, residual, self._name)
        if self._on_gpu is not None and gpu_device(x) is not None:
            call: Callable[..., np.ndarray] = self._gpu()
            return call(x, residual, out)
        x = as_input(x, self._input, self._name)
        shapes = self._shapes if x.shape == self._shapes[0] else self._shapes_for(x.shape)
        residual = checked_residual(residual, self._output, shapes[1], self._name)
        if out is None:
            out = aligned_empty(shapes[1], self._out_dtype, shapes[3])
        else:
            check_out(out, shapes[1], self._out_dtype, self._name)
        x_at, r_at, y_at = address_of(x), address_of(residual), address_of(out)
        for what, start, size in (("x", x_at, shapes[2]), ("residual", r_at, shapes[3])):
            if start < y_at + shapes[3] and y_at < start + size:
                # Tiles overlap at the edges: what is added twice must be the same number both times.
                raise InputError(f"layer {self._name!r}: out overlaps {what} in memory; expected an array of its own")
        context = self._take_context()
        try:
            self._run(context[0], x_at, r_at, y_at, shapes[0][0])
        finally:
            self._contexts.append(context)
        return out


def split_inputs(x: Any, residual: Any, layer: str) -> tuple[Any, Any]:
    """``x`` and ``residual``, also from a list of the two, as Keras passes them. Raises ``InputError``."""
    if residual is None and isinstance(x, (list, tuple)):
        if len(x) != 2:
            raise InputError(f"layer {layer!r}: a list of {len(x)} inputs; expected x and residual")
        x, residual = x
    if residual is None:
        raise InputError(f"layer {layer!r}: residual is missing; expected layer(x, residual), of the output's shape")
    return x, residual


def checked_residual(residual: Any, spec: TensorSpec, shape: tuple[int, ...], layer: str) -> np.ndarray:
    """The second input as an array that a kernel can read, of the output's ``shape``. Raises ``InputError``."""
    array = as_input(residual, spec, layer, "residual")
    if array.shape != shape:
        found, wanted = describe(array.shape), describe(shape)
        raise InputError(f"layer {layer!r}: residual has shape {found}; expected {wanted}, that of the output")
    return array
