"""The Add of a skip connection joins the block before it, where a kernel can read its second tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import sepcompile
from sepcompile.frontend.model import read_model, report
from tests.model import zoo
from tests.model.test_files import zoo_randomized

Body = Callable[[Any], Any]


def separable(name: str, **options: Any) -> Any:
    return layers.SeparableConv2D(4, 3, padding="same", name=name, **options)


def network(body: Body, shape: tuple[int, ...] = (7, 6, 4)) -> Any:
    """A model around ``body``, which is given a tensor that a layer made."""
    given = keras.Input(shape, name="img")
    value = body(layers.Activation("tanh", name="start")(given))
    return zoo_randomized(keras.Model(given, layers.Rescaling(2.0, name="end")(value)))


def inverted(first: bool) -> Body:
    """MobileNetV2's block, with the skip connection as the first or second input of its Add."""

    def body(x: Any) -> Any:
        y = layers.BatchNormalization(name="bn")(layers.DepthwiseConv2D(3, padding="same", name="dw")(x))
        y = layers.Conv2D(4, 1, name="mix")(layers.ReLU(6.0, name="act")(y))
        y = layers.BatchNormalization(name="bn2")(y)
        return layers.Add(name="add")([x, y] if first else [y, x])

    return body


def activated(x: Any) -> Any:
    y = layers.Add(name="add")([separable("one", activation="relu")(x), x])
    return layers.ReLU(name="after")(y)


def two_branches(x: Any) -> Any:
    """Both tensors come from a block: one of them takes the Add."""
    y = layers.Add(name="add")([separable("one")(x), separable("two")(layers.ReLU(name="act")(x))])
    return layers.Add(name="again")([layers.Dropout(0.5, name="drop")(y), x])


def one_d(x: Any) -> Any:
    y = layers.SeparableConv1D(4, 3, padding="same", name="one")(layers.Reshape((42, 4), name="line")(x))
    return layers.Add(name="add")([y, layers.Reshape((42, 4), name="other")(x)])


INSIDE: dict[str, tuple[Body, list[str], str]] = {
    "skip first": (inverted(True), ["dw", "bn", "act", "mix", "bn2", "add"], "start"),
    "skip second": (inverted(False), ["dw", "bn", "act", "mix", "bn2", "add"], "start"),
    "activated": (activated, ["one", "add", "after"], "start"),
    "two branches": (two_branches, ["one", "add", "drop"], "two"),
    "1-D": (one_d, ["one", "add"], "other"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_is_computed_in_the_block(case: str, tmp_path: Path) -> None:
    body, names, other = INSIDE[case]
    model = network(body)
    built = sepcompile.compile(model, output=tmp_path)
    read = read_model(model)
    index = json.loads((tmp_path / "model.json").read_text())["artifacts"]
    found = next(entry for entry in index if entry["layers"] == names)
    assert found["residual"]["tensor"] == other
    assert found["residual"]["shape"] == found["output"]["shape"]
    parts = {part.name: part for part in built.parts}
    for point in zoo.points(model, read, read.units):
        layer = parts[point.unit.name].load(threads=1)
        assert layer.takes_residual == (point.unit.block.residual is not None)
        zoo.assert_within(read, point, read.build(point.unit), layer(*point.inputs))
        assert sepcompile.verify(parts[point.unit.name].path).passed


@pytest.mark.parametrize("case", INSIDE)
def test_optimize(case: str) -> None:
    model = network(INSIDE[case][0])
    fast = sepcompile.optimize(model)
    x = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype("float32")
    assert not any(layer.name == "add" for layer in fast.layers)
    np.testing.assert_allclose(np.asarray(fast(x)), np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fast.predict(x, verbose=0), np.asarray(model(x)), rtol=1e-4, atol=1e-5)


def twice(x: Any) -> Any:
    y = separable("one")(x)
    return layers.Add(name="add")([y, y])


def read_elsewhere(x: Any) -> Any:
    y = separable("one")(x)
    return layers.Concatenate(name="cat")([layers.Add(name="add")([y, x]), y])


def three(x: Any) -> Any:
    return layers.Add(name="add")([separable("one")(x), x, layers.ReLU(name="act")(x)])


def broadcast(x: Any) -> Any:
    mean = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x)
    return layers.Add(name="add")([separable("one")(x), mean])


def channels_first(x: Any) -> Any:
    y = layers.SeparableConv2D(7, 3, padding="same", data_format="channels_first", name="one")(x)
    return layers.Add(name="add")([y, x])


def other_dtype(x: Any) -> Any:
    return layers.Add(name="add", dtype="float16")([separable("one")(x), x])


def second_sum(x: Any) -> Any:
    y = layers.Add(name="first")([separable("one")(x), x])
    return layers.Add(name="add")([y, layers.ReLU(name="act")(x)])


@pytest.mark.parametrize(
    "body", [twice, read_elsewhere, three, broadcast, channels_first, other_dtype, second_sum], ids=lambda f: f.__name__
)
def test_stays_with_the_caller(body: Body) -> None:
    model = network(body)
    row = next(row for row in report(read_model(model)).layers if row.path == "add")
    assert row.artifact is None
    assert row.reason is not None and "addition" in row.reason


def test_after_the_sum_only_an_activation() -> None:
    """A normalization or a 1x1 convolution of the sum is no part of the block."""

    def body(x: Any) -> Any:
        y = layers.Add(name="add")([layers.DepthwiseConv2D(3, padding="same", name="dw")(x), x])
        return layers.Conv2D(5, 1, name="mix")(layers.BatchNormalization(name="bn")(y))

    read = read_model(network(body))
    assert [read.graph.nodes[n].layer.name for n in read.units[0].block.calls] == ["dw", "add"]
