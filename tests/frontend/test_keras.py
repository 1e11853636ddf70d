"""``reference.evaluate`` of what the frontend reads against real Keras 3, over a grid and over random layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from keras_oracle import assert_same, build, check, sample
from strategies import CLASS_NAMES, FUNCTIONS, activation_objects, layer_object, legal_layers

from sepcompile.errors import UnsupportedError
from sepcompile.frontend import read_layer
from sepcompile.ir import reference

EXAMPLES = (300, 2500)
FEW, MANY = (
    settings(max_examples=n, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)) for n in EXAMPLES
)


def layer_of(name: str, **config: object) -> dict[str, object]:
    return {"kernel_size": 3, **({"filters": 4} if name.startswith("Separable") else {}), **config}


def shape_of(name: str, first: bool = False, channels: int = 3) -> tuple[int | None, ...]:
    spatial = (9, 8)[2 - int(name[-2]) :]
    return (None, channels, *spatial) if first else (None, *spatial, channels)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides,dilation", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_arithmetic(name: str, padding: str, strides: int, dilation: int) -> None:
    config = layer_of(name, padding=padding, strides=strides, dilation_rate=dilation, depth_multiplier=2)
    check(name, config, shape_of(name))


@pytest.mark.parametrize("config", [{"kernel_size": [2, 5], "strides": [3, 1], "padding": "same"}, {"kernel_size": 9}])
@pytest.mark.parametrize("name", ["SeparableConv2D", "DepthwiseConv2D"])
def test_uneven(name: str, config: dict[str, object]) -> None:
    check(name, layer_of(name, **config), (2, 9, 10, 2))


def test_same_with_a_kernel_larger_than_the_input() -> None:
    check("DepthwiseConv1D", {"kernel_size": 30, "padding": "same"}, (None, 9, 2))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_functions(activation: str, first: bool) -> None:
    data_format = "channels_first" if first else "channels_last"
    config = layer_of("SeparableConv2D", activation=activation, data_format=data_format)
    check("SeparableConv2D", config, shape_of("SeparableConv2D", first))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("index", range(len(activation_objects(2))))
@pytest.mark.parametrize("name", ["SeparableConv1D", "DepthwiseConv2D"])
def test_objects(name: str, index: int, first: bool) -> None:
    data_format = "channels_first" if first else "channels_last"
    config = layer_of(name, activation=activation_objects(int(name[-2]))[index], data_format=data_format)
    check(name, config, shape_of(name, first))


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
@pytest.mark.parametrize("activation", [None, "gelu", layer_object("LeakyReLU", negative_slope=0.1)])
def test_float16(dtype: str, activation: object) -> None:
    imported = check("SeparableConv2D", layer_of("", filters=4, dtype=dtype, activation=activation), (None, 9, 8, 3))
    assert imported.program.input.dtype == "float16"
    assert imported.program.output.dtype == ("float32" if isinstance(activation, dict) else "float16")


@pytest.mark.parametrize("layer", ["float32", "float16"])
@pytest.mark.parametrize("outer", ["float32", "float16"])
@pytest.mark.parametrize("inner", ["float32", "float16"])
def test_an_activation_layer_in_another(inner: str, outer: str, layer: str) -> None:
    """Each casts to its own dtype; that of the inner one comes out."""
    slope = {"class_name": "LeakyReLU", "module": "keras.layers", "config": {"negative_slope": 0.2, "dtype": inner}}
    activation = {"class_name": "Activation", "module": "keras.layers", "config": {"activation": slope, "dtype": outer}}
    config = layer_of("", filters=4, dtype=layer, activation=activation)
    if (outer, inner) == ("float16", "float32"):
        with pytest.raises(UnsupportedError, match="float16 around a layer of float32"):
            read_layer({"class_name": "SeparableConv2D", "config": config}, input_shape=(None, 9, 8, 3))
    else:
        assert check("SeparableConv2D", config, (None, 9, 8, 3)).program.output.dtype == inner


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16(dtype: str) -> None:
    imported = check("SeparableConv2D", layer_of("", filters=4, dtype=dtype, activation="relu"), (None, 9, 8, 3))
    assert imported.program.input.dtype == imported.program.output.dtype == "bfloat16"
    for weight in imported.weights.values():
        assert not (weight.view(np.uint32) & 0xFFFF).any()


@pytest.mark.parametrize("activation", [*FUNCTIONS, *activation_objects(2)[:6]])
def test_nan_and_inf(activation: object) -> None:
    config = layer_of("DepthwiseConv2D", kernel_size=1, activation=activation, use_bias=False)
    layer = build("DepthwiseConv2D", config, (None, 4, 4, 4))
    layer.set_weights([np.ones((1, 1, 4, 1), "float32")])
    x = sample((1, 4, 4, 4), "float32")
    x[0, 0, 0, 0], x[0, 1, 1, 1], x[0, 2, 2, 2] = np.nan, np.inf, -np.inf
    imported = read_layer(
        {"class_name": "DepthwiseConv2D", "config": config}, input_shape=(None, 4, 4, 4), weights=layer.get_weights(),
        keras_version="3.15",
    )  # fmt: skip
    assert_same(imported, layer, x)


def test_empty_batch() -> None:
    imported = read_layer(layer_of("SeparableConv2D"), input_shape=(None, 9, 8, 3))
    assert reference.evaluate(imported.program, imported.weights, np.zeros((0, 9, 8, 3))).shape == (0, 7, 6, 4)


def test_live_layer_says_everything() -> None:
    layer = keras.layers.SeparableConv1D(4, 3, activation=keras.layers.PReLU(), padding="same", name="live")
    x = sample((2, 9, 3), "float32")
    layer(x)
    imported = read_layer(layer)
    assert (imported.generation, imported.keras_version) == ("keras3", keras.__version__)
    assert not imported.weights_drawn
    assert set(imported.weights) == {"depthwise_kernel", "pointwise_kernel", "bias", "prelu_alpha"}
    assert_same(imported, layer, x)


@FEW
@given(legal_layers())
def test_random_layers(layer: tuple[str, dict[str, object], tuple[int | None, ...]]) -> None:
    check(*layer)


@pytest.mark.slow
@MANY
@given(legal_layers())
def test_many_random_layers(layer: tuple[str, dict[str, object], tuple[int | None, ...]]) -> None:
    check(*layer)
