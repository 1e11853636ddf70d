"""Networks with random weights, and how a block of one is compared with Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import applications, layers

from sepcompile.frontend import ImportedLayer
from sepcompile.frontend.model import Model, Unit
from sepcompile.frontend.model.program import draft_block
from sepcompile.ir import reference


def ds_cnn() -> Any:
    """Keyword spotting on 49 x 10 MFCCs (Zhang et al., Hello Edge): a convolution and four separable blocks."""
    x = given = keras.Input((49, 10, 1))
    x = layers.Conv2D(64, (10, 4), strides=(2, 2), padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(64, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.2)(x))
    return keras.Model(given, layers.Dense(12, activation="softmax")(x), name="ds_cnn")


# As small as each of them goes.
NETWORKS: dict[str, Callable[[], Any]] = {
    "ds_cnn": ds_cnn,
    "mobilenet": lambda: applications.MobileNet((32, 32, 3), alpha=0.25, weights=None),
    "mobilenet_v2": lambda: applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None),
    "xception": lambda: applications.Xception(weights=None, input_shape=(71, 71, 3)),
    "nasnet_mobile": lambda: applications.NASNetMobile((32, 32, 3), weights=None),
}
# Separable blocks of each, as counted by hand from keras.applications.
BLOCKS = {"ds_cnn": 4, "mobilenet": 13, "mobilenet_v2": 17, "xception": 34, "nasnet_mobile": 160}


def build(name: str) -> Any:
    """A network with the weights of ``randomize``; Keras's own random ones, which take long to draw, are skipped."""

    def zeros(self: Any, shape: Any, dtype: Any = None) -> Any:
        return np.zeros(shape, dtype or "float32")

    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros):
        return randomize(NETWORKS[name]())


def randomize(model: Any, seed: int = 0) -> Any:
    """Weights that keep activations near 1, and moving averages that are not 0 and 1: folding them must show."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            size, name = tuple(weight.shape), weight.name
            if name in ("gamma", "moving_variance"):
                values.append(rng.uniform(0.5, 1.5, size))
            elif name in ("beta", "moving_mean", "bias"):
                values.append(rng.normal(0.0, 0.3, size))
            elif name in ("kernel", "depthwise_kernel") and "epthwise" in type(layer).__name__ + name:
                values.append(rng.normal(0.0, 1.0 / np.sqrt(np.prod(size[:-2])), size))
            else:
                values.append(rng.normal(0.0, 1.4 / np.sqrt(np.prod(size[:-1])), size))
        layer.set_weights([value.astype("float32") for value in values])
    return model


@dataclass(frozen=True)
class Point:
    """What goes into a block and what comes out of it, according to Keras."""

    unit: Unit
    x: np.ndarray
    y: np.ndarray
    residual: np.ndarray | None = None

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What the compiled block takes."""
        arrays = (self.x,) if self.residual is None else (self.x, self.residual)
        return tuple(map(np.ascontiguousarray, arrays))


def points(model: Any, read: Model, units: Sequence[Unit], seed: int = 1) -> list[Point]:
    """Keras's own tensors around the blocks, from one run of the network."""
    names = {r for unit in units for r in (unit.block.input, unit.block.output, unit.block.residual) if r is not None}
    wanted = {ref: model.get_layer(read.graph.nodes[ref.node].layer.name).output for ref in names}
    x = np.random.default_rng(seed).normal(size=(1, *model.input_shape[1:])).astype("float32")
    found = dict(zip(wanted, keras.Model(model.input, list(wanted.values()))(x), strict=True))
    arrays = {ref: np.asarray(value) for ref, value in found.items()}
    return [
        Point(u, arrays[u.block.input], arrays[u.block.output], arrays[u.block.residual] if u.block.residual else None)
        for u in units
    ]


def distinct(read: Model, units: Sequence[Unit]) -> list[Unit]:
    """One block for each program, whatever its weights."""
    found: dict[Any, Unit] = {}
    for unit in units:
        program = read.build(unit).program
        found.setdefault((program.input, program.output, program.stages), unit)
    return list(found.values())


def assert_within(read: Model, point: Point, imported: ImportedLayer, got: np.ndarray) -> None:
    """``got`` and Keras's own result differ by at most what both may lose.

    Keras computes the stages one by one and the kernel the folded program: each has its own bound.
    """
    draft = draft_block(read.graph, read.roles, read.store, point.unit.block, 0)
    exact = reference.evaluate(draft.program, draft.weights, *point.inputs)
    keras_bound = reference.error_bound(draft.program, draft.weights, point.x, residual=point.residual)
    own_bound = reference.error_bound(imported.program, imported.weights, point.x, residual=point.residual)
    bound = keras_bound + own_bound
    assert got.shape == point.y.shape
    assert np.isfinite(point.y).all()
    # Neither dead nor saturated: a comparison of constants would prove nothing.
    assert np.std(point.y) > 1e-3
    assert np.median(bound) < 1e-2 * np.max(np.abs(point.y))
    assert (np.abs(point.y - exact) <= keras_bound).all(), point.unit.name
    assert (np.abs(got - point.y) <= bound).all(), point.unit.name
