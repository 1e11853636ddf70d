"""Blocks with a second input on an emulated GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sepcompile.errors import InputError
from sepcompile.ir.reference import evaluate
from sepcompile.runtime.cuda_residual import CudaResidualLayer
from sepcompile.schedule import cuda
from tests.compile.cases import form_of, with_integers
from tests.compile.test_residual import second, with_residual
from tests.cuda.cases import compiled, emulated_layer, imported, integers
from tests.cuda.test_runtime import GpuArray, aligned

CASES: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[str, ...]]] = [
    ("SeparableConv2D", {"filters": 40, "kernel_size": 3, "padding": "same"}, (9, 10, 32), ()),
    ("SeparableConv2D", {"filters": 33, "kernel_size": 3, "strides": 2, "activation": "relu"}, (11, 9, 17), ("relu",)),
    ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same", "depth_multiplier": 2}, (7, 6, 9), ()),
]


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("name", "config", "shape", "last"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_integers_are_bit_exact(
    name: str, config: dict[str, Any], shape: tuple[int, ...], last: tuple[str, ...], dtype: str
) -> None:
    layer = with_integers(with_residual(imported(name, {**config, "dtype": dtype}, shape), *last))
    records = cuda.candidates(form_of(layer))
    for record in {records[0], records[-1]}:
        built = emulated_layer(layer, compiled(layer, record))
        assert isinstance(built, CudaResidualLayer)
        for batch in (0, 1, 3):
            x, r = integers(layer, batch), second(layer, batch, integers=True)
            reference = evaluate(layer.program, layer.weights, x, r)
            found = built([x, r]).astype(np.float64)
            if dtype == "float32" or (np.abs(reference) < 2048).all():
                np.testing.assert_array_equal(found, reference)
            else:
                np.testing.assert_allclose(found, reference, rtol=2e-3, atol=2.0)


@pytest.mark.usefixtures("driver")
def test_tensors_on_the_gpu() -> None:
    layer = with_integers(with_residual(imported(*CASES[0][:3])))
    built: Any = emulated_layer(layer, compiled(layer))
    x, r, y = aligned((2, 9, 10, 32)), aligned((2, 9, 10, 40)), aligned((2, 9, 10, 40))
    x[...], r[...] = integers(layer, 2), second(layer, 2, integers=True)
    out = GpuArray(y)
    assert built(GpuArray(x), GpuArray(r), out=out) is out
    np.testing.assert_array_equal(y, evaluate(layer.program, layer.weights, x, r))
    for arguments in [(GpuArray(x),), (GpuArray(x), r, out), (GpuArray(x), GpuArray(x), out), (x, r[:1])]:
        with pytest.raises(InputError):
            built(*arguments)
