"""The loader's side of a GPU, on the stand-in driver: tensors, streams, memory, and errors that say what is wrong."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.errors import ArtifactError, DeviceError, InputError
from sepcompile.runtime import cuda_driver
from sepcompile.runtime.cuda import CudaLayer
from sepcompile.runtime.cuda_tensors import _DLTensor, _pointer
from tests.compile.cases import expected, with_integers
from tests.cuda.cases import compiled, emulated_layer, imported, integers
from tests.cuda.emulator import standin_driver

CONFIG = {"filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"}
SHAPE = (6, 5, 8)


class GpuArray:
    """A NumPy array that says it lies in a GPU's memory, as the stand-in driver's memory does."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.array, self.device, self.streams = array, device, []  # type: ignore[var-annotated]

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
        tensor.device.type, tensor.device.id = 2, self.device
        return capsule


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    raw = np.zeros(int(np.prod(shape)) * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


@pytest.fixture
def pair(driver: Any) -> tuple[CudaLayer, Any]:
    layer = with_integers(imported("SeparableConv2D", CONFIG, SHAPE))
    return emulated_layer(layer, compiled(layer)), layer


def test_tensors_are_read_and_written_where_they_lie(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    x, y = aligned((3, *SHAPE)), aligned((3, 6, 5, 8))
    x[...] = integers(source, 3)
    y[...] = np.nan
    tensor, out = GpuArray(x), GpuArray(y)
    assert layer(tensor, out=out, stream=77) is out
    np.testing.assert_array_equal(y, expected(source, x)[0])
    assert tensor.streams == [77]
    stream = ctypes.CDLL(str(standin_driver())).standin_stream
    stream.restype = ctypes.c_void_p
    assert stream() == 77
    layer(tensor, out=out)
    assert tensor.streams == [77, 1]  # DLPack's name of the default stream


class JaxArray(GpuArray):
    """As JAX's arrays on a GPU: of a class of jaxlib, made by ``jax.numpy.empty``."""

    __module__ = "jaxlib._jax"


def test_jax_gets_arrays_that_are_ready(pair: tuple[CudaLayer, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, source = pair

    def empty(shape: tuple[int, ...], dtype: str, device: object) -> JaxArray:
        assert (dtype, device) == ("float32", 0)
        return JaxArray(aligned(shape))

    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(numpy=SimpleNamespace(empty=empty)))
    x = aligned((2, *SHAPE))
    x[...] = integers(source, 2)
    layer(JaxArray(x))
    waits = ctypes.CDLL(str(standin_driver())).standin_waits
    before = waits()
    y = layer(JaxArray(x))
    np.testing.assert_array_equal(y.array, expected(source, x)[0])
    assert waits() == before + 1  # JAX's streams are unknown
    layer(JaxArray(x), stream=5)
    assert waits() == before + 1


def test_the_callers_context_comes_back(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    layer(integers(source, 1))
    with pytest.raises(InputError):
        layer(np.zeros((1, 2, 3, 4), np.float32))
    assert ctypes.CDLL(str(standin_driver())).standin_depth() == 0


def test_tensors_that_do_not_fit_are_refused(pair: tuple[CudaLayer, Any]) -> None:
    layer, _ = pair
    good, out = GpuArray(aligned((2, *SHAPE))), GpuArray(aligned((2, 6, 5, 8)))
    with pytest.raises(InputError, match="float16"):
        layer(GpuArray(aligned((2, *SHAPE), "float16")), out=out)
    with pytest.raises(InputError, match="contiguous"):
        layer(GpuArray(aligned((2, 5, 6, 8)).transpose(0, 2, 1, 3)), out=out)
    with pytest.raises(InputError, match="multiple of 16"):
        layer(GpuArray(aligned((2 * 6 * 5 * 8 + 1,))[1:].reshape(2, *SHAPE)), out=out)
    with pytest.raises(InputError, match=r"\(2, 6, 5, 9\)"):
        layer(good, out=GpuArray(aligned((2, 6, 5, 9))))
    with pytest.raises(InputError, match="GPU 1"):
        layer(good, out=GpuArray(aligned((2, 6, 5, 8)), device=1))
    with pytest.raises(InputError, match="not on a GPU"):
        layer(good, out=aligned((2, 6, 5, 8)))
    with pytest.raises(InputError, match="give out="):
        layer(good)
    with pytest.raises(InputError, match="stream"):
        layer(good, out=out, stream="main")


def test_empty_batches_and_many_images(pair: tuple[CudaLayer, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, source = pair
    assert layer(np.zeros((0, *SHAPE), np.float32)).shape == (0, 6, 5, 8)
    monkeypatch.setattr(layer, "_most_batch", 2)  # several rounds of launches
    x = integers(source, 5)
    np.testing.assert_array_equal(layer(x), expected(source, x)[0])


def test_a_recorded_graph_keeps_its_intermediates(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_integers(imported("SeparableConv2D", {**CONFIG, "activation": "sparsemax"}, SHAPE))
    layer = emulated_layer(source, compiled(source))
    x = integers(source, 2)
    layer(x)
    (bound,) = layer._devices.values()
    before = {name: pointer for name, (pointer, _) in bound.memories[0].pieces.items()}
    monkeypatch.setenv("SEP_CAPTURING", "1")
    layer(x)
    (kept,) = bound.recorded
    monkeypatch.delenv("SEP_CAPTURING")
    layer(integers(source, 9))  # grows, and gives the smaller memory back
    assert {pointer for pointer, _ in kept.pieces.values()}.isdisjoint(before.values())
    np.testing.assert_array_equal(layer(x), expected(source, x)[0])


def test_replays_go_round_copies_of_the_input(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    x = integers(source, 2)
    replays = layer.replays(x)
    assert replays.calls == 3  # 3840 bytes each, more than twice the 4096 of the stand-in's L2 cache
    assert replays.seconds() > 0
    (bound,) = layer._devices.values()
    reference = expected(source, x)[0].astype(np.float32)
    for number in range(replays.calls):
        address, size = bound.recorded[0].pieces[f"y{number}"]
        assert ctypes.string_at(address, size) == reference.tobytes()
    del replays
    assert ctypes.CDLL(str(standin_driver())).standin_depth() == 0
    with pytest.raises(InputError):
        layer.replays(x[..., 1:])


def test_a_driver_too_old_to_time_says_so(pair: tuple[CudaLayer, Any], driver: Any) -> None:
    with pytest.raises(DeviceError, match="cuNothing"):
        driver.call("cuNothing")


def test_too_little_memory_is_said(pair: tuple[CudaLayer, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, source = pair
    monkeypatch.setenv("SEP_MEMORY", "100")
    with pytest.raises(DeviceError, match="too little memory"):
        layer(integers(source, 1))


def test_layers_give_their_memory_back(pair: tuple[CudaLayer, Any]) -> None:
    layer, source = pair
    layer(integers(source, 1))
    del layer, pair
    gc.collect()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    config = {"class_name": "SeparableConv2D", "config": CONFIG}
    targets = ["native", "cuda-sm_90"]
    return sepcompile.compile(config, (None, *SHAPE), target=targets, output=tmp_path / "a", cache=tmp_path).path


def test_machines_that_cannot_run_a_variant_are_told_why(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda" not in sepcompile.load(artifact).variant
    monkeypatch.setattr(cuda_driver, "_DRIVERS", {})
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnone.so.1")
    with pytest.raises(ArtifactError, match="no CUDA driver"):
        sepcompile.load(artifact, variant="cuda-sm_90")
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(standin_driver()))
    monkeypatch.setenv("SEP_CAPABILITY", "75")
    with pytest.raises(ArtifactError, match=r"capability 7\.5"):
        sepcompile.load(artifact, variant="cuda-sm_90")
    monkeypatch.setattr(cuda_driver, "_DRIVERS", {})
    monkeypatch.setenv("SEP_GPUS", "0")
    with pytest.raises(ArtifactError, match="no GPU"):
        sepcompile.load(artifact, variant="cuda-sm_90")


def test_a_gpus_tensor_goes_to_the_gpus_variant(artifact: Path, driver: Any) -> None:
    layer = sepcompile.load(artifact)
    x = GpuArray(aligned((1, *SHAPE)))
    # A real cubin is nothing that the stand-in driver can load: the call arrives there and no earlier.
    with pytest.raises((ArtifactError, DeviceError), match="cuModuleLoadData"):
        layer(x, out=GpuArray(aligned((1, 6, 5, 8))))


def test_images_for_another_gpu_are_refused(driver: Any) -> None:
    with driver.current(driver.device(0)), pytest.raises(ArtifactError, match="does not fit"):
        driver.module(b"no image")
