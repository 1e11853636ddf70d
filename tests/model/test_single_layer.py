"""One layer's weights from the files that Keras writes for whole models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from sepcompile.errors import WeightError
from sepcompile.frontend import read_layer
from tests.model.test_files import DATA, zoo_randomized

SHAPE = (None, 9, 8, 3)


def model() -> Any:
    """Three layers of one class, one of them nested."""
    inner = keras.Sequential([keras.Input((7, 6, 6)), layers.DepthwiseConv2D(3, name="deep")], name="inner")
    parts = [
        keras.Input((9, 8, 3)),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="one"),
        layers.DepthwiseConv2D(3, padding="same", name="two"),
        inner,
        layers.SeparableConv2D(4, 3, padding="same", name="sep"),
    ]
    return zoo_randomized(keras.Sequential(parts, name="net"))


def save(source: Any, path: Path) -> Path:
    (source.save_weights if path.name.startswith("weights") else source.save)(path)
    return path


FILES = ("weights.weights.h5", "model.h5", "model.keras")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("saved")
    source = model()
    for name in FILES:
        save(source, folder / name)
    return source, folder


def check(layer: Any, path: Path, shape: tuple[int | None, ...], **changes: Any) -> None:
    config = {"class_name": type(layer).__name__, "config": {**layer.get_config(), **changes}}
    config["config"] = {key: value for key, value in config["config"].items() if value is not ...}
    found = read_layer(config, input_shape=shape, weights=path)
    live = read_layer(layer)
    assert not found.weights_drawn
    for name, array in live.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)


@pytest.mark.parametrize("file", FILES)
def test_by_name(file: str, saved: tuple[Any, Path]) -> None:
    source, folder = saved
    check(source.get_layer("one"), folder / file, SHAPE)
    check(source.get_layer("two"), folder / file, (None, 7, 6, 6))
    check(source.get_layer("sep"), folder / file, (None, 5, 4, 6))
    check(source.get_layer("inner").get_layer("deep"), folder / file, (None, 7, 6, 6))
    assert isinstance(os.fspath(folder / file), str)
    read_layer(source.get_layer("one").get_config(), input_shape=SHAPE, weights=str(folder / file))


@pytest.mark.parametrize("file", FILES)
def test_the_only_one(file: str, tmp_path: Path) -> None:
    """A file of one layer needs no name; a name that it does not know does no harm."""
    layer = layers.DepthwiseConv2D(3, depth_multiplier=2, name="one")
    path = save(zoo_randomized(keras.Sequential([keras.Input((9, 8, 3)), layer])), tmp_path / file)
    check(layer, path, SHAPE)
    check(layer, path, SHAPE, name=...)
    check(layer, path, SHAPE, name="other")


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("weights.weights.h5", {"name": ...}, "which one is not clear: deep .*one .*two"),
        ("model.keras", {"name": "three"}, "3 layers of class DepthwiseConv2D, and none of them is named 'three'"),
        ("model.h5", {"name": "three"}, "4 layers with weights, and none of them is named 'three'"),
        ("model.h5", {"name": "sep"}, "weights"),
        ("model.h5", {"name": "two"}, "expected"),
        ("missing.h5", {}, "weights='.*missing.h5'"),
    ],
)
def test_errors(file: str, changes: dict[str, Any], words: str, saved: tuple[Any, Path]) -> None:
    source, folder = saved
    with pytest.raises(WeightError, match=words):
        check(source.get_layer("one"), folder / file, SHAPE, **changes)


def test_no_such_class(tmp_path: Path) -> None:
    source = zoo_randomized(keras.Sequential([keras.Input((9, 3)), layers.Conv1D(3, 3)]))
    path = save(source, tmp_path / "weights.weights.h5")
    config = {"class_name": "DepthwiseConv1D", "config": {"kernel_size": 3}}
    with pytest.raises(WeightError, match="no layers of class DepthwiseConv1D"):
        read_layer(config, input_shape=(None, 9, 3), weights=path)


def test_keras_2() -> None:
    """Keras 2's names, with the kernel called depthwise_kernel."""
    path = DATA / "keras2_mobile.h5"
    with h5py.File(path) as file:
        groups = {name: list(map(str, group.attrs["weight_names"])) for name, group in file["model_weights"].items()}
        name = next(name for name, stored in groups.items() if any("depthwise_kernel" in item for item in stored))
        arrays = {item.rsplit("/", 1)[-1][:-2]: file["model_weights"][name][item][()] for item in groups[name]}
    kernel = arrays["depthwise_kernel"]
    config = {"name": name, "kernel_size": list(kernel.shape[:2]), "use_bias": "bias" in arrays}
    shape = (None, 16, 16, kernel.shape[2])
    found = read_layer({"class_name": "DepthwiseConv2D", "config": config}, input_shape=shape, weights=path)
    np.testing.assert_array_equal(found.weights["depthwise_kernel"], kernel)


def test_damaged_files(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """Only typed errors."""
    source, folder = saved
    damage: list[Callable[[bytes], bytes]] = [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:100] + b"\xff" * 900,
    ]
    for number, change in enumerate(damage):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(change((folder / "model.h5").read_bytes()))
        with pytest.raises(WeightError):
            check(source.get_layer("one"), path, SHAPE)
