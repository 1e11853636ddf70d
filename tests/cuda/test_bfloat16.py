"""bfloat16 and TF32 from the config to the loader: what is taken and given, what the manifest says, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sepcompile
from sepcompile.errors import InputError, UnsupportedError
from sepcompile.ir.rounding import bfloat16_bits, round_bfloat16, round_tf32
from sepcompile.runtime.bfloat16 import from_bits, to_bits
from sepcompile.runtime.cuda import CudaLayer
from sepcompile.runtime.cuda_tensors import _DLTensor, _pointer
from tests.compile.cases import expected, with_integers
from tests.cuda.cases import compiled, emulated_layer, imported
from tests.cuda.test_runtime import GpuArray, aligned

SHAPE = (6, 5, 8)
CONFIG = {"filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"}
SOURCE = {"class_name": "SeparableConv2D", "config": {**CONFIG, "name": "conv"}}
NARROW = {"class_name": "SeparableConv2D", "config": {**CONFIG, "name": "conv", "dtype": "mixed_bfloat16"}}


class GpuBits(GpuArray):
    """bfloat16 bits in uint16 that DLPack hands over as bfloat16, as PyTorch and JAX do."""

    def __dlpack__(self, stream: int | None = None) -> Any:
        capsule = super().__dlpack__(stream)
        _DLTensor.from_address(_pointer(capsule, b"dltensor")).code = 4
        return capsule


def test_rounding_is_that_of_ml_dtypes() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    edges = np.array([0, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFFC00000, 1], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    with np.errstate(invalid="ignore"):  # NaNs that signal
        truth = values.astype(ml_dtypes.bfloat16)
    for found in (from_bits(to_bits(values)), round_bfloat16(values), from_bits(bfloat16_bits(values))):
        np.testing.assert_array_equal(found, truth.astype(np.float32))
    assert round_tf32(np.float32(1 + 2**-11)) == 1  # a tie, to even
    assert round_tf32(np.float32(1 + 3 * 2**-11)) == np.float32(1 + 2**-9)
    assert np.isnan(round_tf32(np.float32(np.nan)))


@pytest.fixture
def pair(driver: Any) -> tuple[CudaLayer, Any]:
    layer = with_integers(imported("SeparableConv2D", {**CONFIG, "dtype": "bfloat16"}, SHAPE))
    return emulated_layer(layer, compiled(layer)), layer


def test_numpy_comes_back_in_the_form_it_came_in(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    assert "bfloat16(None, 6, 5, 8)" in repr(layer)
    assert layer.input_dtype == layer.dtype == np.float32
    x = np.random.default_rng(1).standard_normal((3, *SHAPE))
    rounded = round_bfloat16(x)
    y = layer(x)  # float64: float32 first, as everywhere
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, layer(rounded))
    assert (np.abs(y - expected(source, rounded)[0]) <= expected(source, rounded)[1]).all()
    bits = layer(to_bits(rounded))
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(from_bits(bits), y)
    typed = layer(rounded.astype(ml_dtypes.bfloat16))
    assert typed.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(typed.astype(np.float32), y)
    for out in (np.empty_like(y), np.empty(y.shape, np.uint16), np.empty(y.shape, ml_dtypes.bfloat16)):
        assert layer(rounded, out=out) is out
        np.testing.assert_array_equal(from_bits(out) if out.dtype == np.uint16 else out.astype(np.float32), y)


def test_numpy_of_other_types_is_refused(pair: tuple[CudaLayer, Any]) -> None:
    layer, _ = pair
    with pytest.raises(InputError, match="int32"):
        layer(np.zeros((1, *SHAPE), np.int32))
    with pytest.raises(InputError, match="axis 3"):
        layer(np.zeros((1, 6, 5, 9), np.uint16))
    with pytest.raises(InputError, match="float16"):
        layer(np.zeros((1, *SHAPE), np.float32), out=np.empty((1, *SHAPE), np.float16))


def test_a_gpus_bfloat16_is_read_and_written_where_it_lies(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    x, y = aligned((2, *SHAPE), "uint16"), aligned((2, *SHAPE), "uint16")
    values = np.random.default_rng(2).integers(-3, 4, x.shape).astype(np.float32)
    x[...] = to_bits(values)
    layer(GpuBits(x), out=GpuBits(y))
    np.testing.assert_array_equal(from_bits(y), round_bfloat16(expected(source, values)[0]))
    with pytest.raises(InputError, match="expected bfloat16"):
        layer(GpuArray(aligned((2, *SHAPE))), out=GpuBits(y))


@pytest.mark.parametrize("source", [SOURCE, NARROW], ids=["tf32", "bfloat16"])
def test_the_manifest_says_what_is_multiplied(source: dict[str, Any], tmp_path: Path) -> None:
    narrow = source is NARROW
    artifact = sepcompile.compile(
        source, (None, *SHAPE), target="cuda-sm_80", precision="float32" if narrow else "tf32",
        output=tmp_path / "a", cache=False,
    )  # fmt: skip
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["variants"][0]["cuda"]["precision"] == ("bfloat16" if narrow else "tf32")
    assert manifest["input"]["dtype"] == ("bfloat16" if narrow else "float32")
    read = sepcompile.inspect(artifact.path)
    assert read.variants[0].cuda.precision == ("bfloat16" if narrow else "tf32")
    assert sepcompile.verify(artifact.path).variants[0].target == "cuda-sm_80"
    exact = sepcompile.compile(source, (None, *SHAPE), target="cuda-sm_75", output=tmp_path / "b", cache=False)
    (variant,) = json.loads((exact.path / "manifest.json").read_text())["variants"]
    assert variant["cuda"]["precision"] == "float32"
    assert variant["schedule"]["tensor"] is False


@pytest.mark.parametrize(
    ("source", "target", "precision", "words"),
    [
        (SOURCE, "x86-64-v3", "tf32", ["'tf32'", "cuda-sm_80", "x86-64-v3"]),
        (SOURCE, "cuda-sm_75", "tf32", ["'tf32'", "cuda-sm_80", "cuda-sm_75"]),
        (NARROW, "cuda-sm_80", "tf32", ["bfloat16", "float32"]),
        (NARROW, "x86-64-v3", "float32", ["bfloat16", "CUDA", "float16"]),
        (SOURCE, "cuda-sm_80", "fp8", ["fp8", "tf32"]),
    ],
)
def test_what_a_target_cannot_compute_in_is_refused(
    source: dict[str, Any], target: str, precision: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError) as error:
        sepcompile.compile(
            source, (None, *SHAPE), target=target, precision=precision, output=tmp_path / "a", cache=False
        )
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "a").exists()
