"""Whole artifacts against real Keras 3: config and weights in, compiled, loaded, run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras_oracle import assert_same, build, sample
from strategies import legal_layers

import sepcompile
from sepcompile.frontend import read_layer
from tests.compile.cases import assert_close, expected

FEW = 60
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}

Layer = tuple[str, dict[str, Any], tuple[int | None, ...]]


@st.composite
def wide_layers(draw: st.DrawFn) -> Layer:
    """Legal layers with channels and filters around the widths of vectors."""
    name, config, shape = draw(legal_layers())
    factors = st.sampled_from([1, 3, 7, 8, 16, 17])
    if "filters" in config:
        config["filters"] *= draw(factors)
    axis = 1 if (config["data_format"] or "").lower() == "channels_first" else len(shape) - 1
    sizes = list(shape)
    sizes[axis] = (sizes[axis] or 1) * draw(factors)
    return name, config, tuple(sizes)


def check(name: str, config: dict[str, Any], shape: tuple[int | None, ...], folder: Path) -> None:
    """The artifact's output and Keras's are both within the bound of the float64 reference, special values equal."""
    layer = build(name, config, shape)
    source = {"class_name": name, "config": config}
    options = {"input_shape": shape, "weights": layer.get_weights(), "keras_version": "3.15"}
    imported = read_layer(source, **options)
    x = sample(shape, layer.compute_dtype)
    assert_same(imported, layer, x)
    artifact = sepcompile.compile(source, **options, output=folder / "layer", cache=False)
    compiled = artifact.load(threads=2)
    got = compiled(x)
    assert got.dtype == imported.program.output.dtype
    reference, bound = expected(imported, x)
    assert got.shape == reference.shape
    assert_close(got, reference, bound)
    assert np.array_equal(got, artifact.load(threads=1)(x), equal_nan=True)


@settings(max_examples=FEW, **COMMON)
@given(wide_layers())
def test_random_layers(layer: Layer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*layer, Path(folder))


@pytest.mark.slow
@settings(max_examples=2000, **COMMON)
@given(wide_layers())
def test_many_random_layers(layer: Layer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*layer, Path(folder))


ACTIVATIONS = [
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "softplus", "softsign", "squareplus", "soft_shrink"),
    *("hard_shrink", "sparse_plus", "silu", "gelu", "tanh", "tanh_shrink", "hard_tanh", "sigmoid", "sparse_sigmoid"),
    *("exponential", "hard_sigmoid", "hard_silu", "mish", "log_sigmoid", "softmax", "log_softmax", "sparsemax", "glu"),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, data_format: str, tmp_path: Path) -> None:
    config = {"filters": 18, "kernel_size": 3, "padding": "same", "activation": activation, "data_format": data_format}
    shape = (None, 6, 8, 20) if data_format == "channels_last" else (None, 20, 6, 8)
    check("SeparableConv2D", config, shape, tmp_path)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name not in ("glu",)])
def test_every_activation_on_special_values(activation: str, tmp_path: Path) -> None:
    """NaN, infinities, zeros, denormals and large values come out as Keras has them."""
    config = {"kernel_size": 1, "use_bias": False, "activation": activation}
    layer = build("DepthwiseConv1D", config, (None, 4, 20))
    layer.set_weights([np.ones((1, 20, 1), np.float32)])
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 1e-6, -1e-6, 0.5, -0.5, 1.0, -1.0, 20.0, -20.0, 88.0,
              -88.0, 104.0, -104.0, 1e18]  # fmt: skip
    x = np.tile(np.array(values, np.float32), (1, 4, 1))
    x[:, 1] = np.linspace(-12, 12, 20)
    x[:, 2] = np.linspace(-90, 90, 20)
    source = {"class_name": "DepthwiseConv1D", "config": config}
    options = {"input_shape": (None, 4, 20), "weights": layer.get_weights(), "keras_version": "3.15"}
    got = sepcompile.compile(source, **options, output=tmp_path / "layer", cache=False).load(threads=1)(x)
    imported = read_layer(source, **options)
    assert_same(imported, layer, x)
    assert_close(got, *expected(imported, x))
