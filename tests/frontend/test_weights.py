"""Weights from every container, drawn weights, and files that lie about themselves."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.errors import ConfigError, SepcompileError, WeightError
from sepcompile.frontend import read_layer
from sepcompile.frontend.initializers import INITIALIZERS, draw, read_initializer
from sepcompile.ir.stages import Origin

RNG = np.random.default_rng(0)
ARRAYS = {
    "depthwise_kernel": RNG.normal(size=(3, 2, 3, 2)).astype("float32"),
    "pointwise_kernel": RNG.normal(size=(1, 1, 6, 4)).astype("float32"),
    "bias": RNG.normal(size=4).astype("float32"),
}
CONFIG = {"filters": 4, "kernel_size": [3, 2], "depth_multiplier": 2, "name": "sep"}


def read(weights: Any, **config: Any) -> Any:
    layer = {"class_name": "SeparableConv2D", "config": {**CONFIG, **config}}
    return read_layer(layer, input_shape=(None, 8, 8, 3), weights=weights)


def safetensors(arrays: dict[str, Any]) -> bytes:
    header, body = {}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_every_container(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "c.npz", **ARRAYS)
    (tmp_path / "w.safetensors").write_bytes(safetensors(ARRAYS))
    suffixed = {f"sep/{name}:0": array.astype("float64") for name, array in ARRAYS.items()}
    flat = {**ARRAYS, "pointwise_kernel": ARRAYS["pointwise_kernel"][0, 0]}
    files = [tmp_path / name for name in ("w.npz", "c.npz", "w.safetensors")]
    for given in (ARRAYS, suffixed, flat, list(ARRAYS.values()), *files, str(files[0])):
        weights = read(given).weights
        assert np.array_equal(weights["depthwise_kernel"], ARRAYS["depthwise_kernel"])
        assert np.array_equal(weights["pointwise_kernel"], ARRAYS["pointwise_kernel"][0, 0])
        assert np.array_equal(weights["bias"], ARRAYS["bias"])


@pytest.mark.parametrize("name", ["kernel", "depthwise_kernel", "dw/kernel", "dw/depthwise_kernel:0"])
def test_depthwise_kernel_names(name: str) -> None:
    layer = {"class_name": "DepthwiseConv1D", "config": {"kernel_size": 3, "use_bias": False}}
    imported = read_layer(layer, input_shape=(None, 8, 3), weights={name: np.ones((3, 3, 1))})
    assert imported.weights["depthwise_kernel"].shape == (1, 3, 3, 1)


@pytest.mark.parametrize(
    "change,says",
    [
        ({"bias": np.zeros(5)}, r"'bias' has shape \(5,\), expected \(4,\)"),
        ({"kernel": np.zeros(5)}, "'kernel'"),
        ({"sep/bias": np.zeros(4)}, "twice"),
        ({"bias": np.array([1, 2, np.nan, 4])}, "1 values"),
        ({"bias": np.array([1, 2, 1e300, 4])}, "1 values"),
        ({"bias": np.array(["a", "b", "c", "d"])}, "dtype"),
        ({"bias": np.zeros(4, complex)}, "complex"),
        ({"bias": [[1], [2, 3]]}, "bias"),
    ],
)
def test_wrong_arrays(change: dict[str, Any], says: str) -> None:
    with pytest.raises(WeightError, match=says) as caught:
        read({**ARRAYS, **change})
    assert 'SeparableConv2D "sep"' in str(caught.value)


def test_wrong_sets() -> None:
    for given, says in ((list(ARRAYS.values())[:2], "2 arrays, expected 3"), ({}, "lacks"), (3, "expected a dict")):
        with pytest.raises(WeightError, match=says):
            read(given)
    with pytest.raises(WeightError, match="'bias'"):
        read(ARRAYS, use_bias=False)


def test_float16_rounds_the_weights() -> None:
    for dtype in ("float16", "mixed_float16"):
        weights = read(ARRAYS, dtype=dtype).weights
        assert np.array_equal(weights["bias"], ARRAYS["bias"].astype("float16").astype("float32"))
    with pytest.raises(WeightError, match="float16"):
        read({**ARRAYS, "bias": np.full(4, 1e5)}, dtype="float16")


def npz_member(path: Path, header: bytes, data: bytes) -> Path:
    text = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bias.npy", text)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n",
        b"{'descr': '<f4', 'shape': (1,)}\n",
        b"__import__('os')\n",
    ],
)
def test_npz_that_lies(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightError):
        read(npz_member(tmp_path / "w.npz", header, b"\0" * 16))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**40) + b"{}",
        safetensors(ARRAYS)[:-4],
        safetensors(ARRAYS).replace(b"F32", b"F99"),
        safetensors(ARRAYS).replace(b'"shape": [4]', b'"shape": [9]'),
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_safetensors_that_lies(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(WeightError):
        read(tmp_path / "w.safetensors")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"PK not a zip")
    for path in (tmp_path / "w.npz", tmp_path / "none.npz", "w.pkl", "a\0.npz", "w.h5"):
        with pytest.raises(WeightError):
            read(path)


def test_drawn_weights_are_reproducible_and_said() -> None:
    a, b = read(None), read(None)
    assert a.weights_drawn
    assert any("drawn" in note for note in a.notes)
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)
    layer = {"class_name": "SeparableConv2D", "config": CONFIG}
    other = read_layer(layer, input_shape=(None, 8, 8, 3), seed=1)
    assert not np.array_equal(a.weights["depthwise_kernel"], other.weights["depthwise_kernel"])


@pytest.mark.parametrize("name", sorted({cls.name for cls in INITIALIZERS.values()} - {"Identity", "Constant"}))
def test_distributions_against_keras(name: str) -> None:
    import keras

    shape = (3, 3, 64, 8)
    ours = draw(read_initializer(name, Origin(), "zeros"), shape, (0,))
    theirs = np.asarray(keras.initializers.get(name)(shape))
    assert ours.shape == shape
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1, abs=1e-7)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.35, abs=1e-7)


def test_initializers_that_cannot_draw() -> None:
    for key, name in (("bias_initializer", "orthogonal"), ("depthwise_initializer", "identity")):
        with pytest.raises(ConfigError, match=key):
            read(None, **{key: name})
        assert not read(ARRAYS, **{key: name}).weights_drawn


def test_too_many_elements() -> None:
    with pytest.raises(SepcompileError, match="elements"):
        read(None, filters=2**31 - 1)
