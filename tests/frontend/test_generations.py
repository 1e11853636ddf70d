"""What differs between Keras 2, Keras 3 and R: detection, causal, strides with dilation, hard_sigmoid, names."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest

from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError
from sepcompile.frontend import read_layer
from sepcompile.frontend.keys import KEYS, table
from sepcompile.ir.stages import Activation, Pad

POLICY_3 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
POLICY_2 = {"class_name": "Policy", "config": {"name": "mixed_float16"}, "module": "keras.mixed_precision"}


def read(name: str = "SeparableConv1D", shape: Any = (None, 9, 3), version: Any = None, **config: Any) -> Any:
    base = {"filters": 4, "kernel_size": 3} if name.startswith("Sep") else {"kernel_size": 3}
    return read_layer({"class_name": name, "config": {**base, **config}}, input_shape=shape, keras_version=version)


@pytest.mark.parametrize(
    "config,version,generation",
    [
        ({}, None, "unknown"),
        ({"groups": 1}, None, "keras2"),
        ({"dtype": "float32"}, None, "keras2"),
        ({"dtype": "float32"}, "3", "keras3"),
        ({"dtype": POLICY_3}, None, "keras3"),
        ({"dtype": POLICY_2}, None, "keras2"),
        ({"filters": [4]}, None, "r"),
        ({"filters": [4.0], "kernel_size": 3.0}, None, "r"),
        ({}, "2.15.0", "keras2"),
        ({}, "3.15.1", "keras3"),
        ({"batch_input_shape": [None, 9, 3]}, None, "keras2"),
    ],
)
def test_detection(config: dict[str, Any], version: str | None, generation: str) -> None:
    imported = read(version=version, **config)
    assert (imported.generation, imported.keras_version) == (generation, version)


@pytest.mark.parametrize(
    "config,version",
    [
        ({"groups": 1}, "3"),
        ({"dtype": POLICY_3}, "2"),
        ({"groups": 1, "dtype": POLICY_3}, None),
        ({}, "1"),
        ({}, "4"),
        ({}, 3),
        ({}, "three"),
    ],
)
def test_conflicts(config: dict[str, Any], version: Any) -> None:
    with pytest.raises(ConfigError, match="Keras"):
        read(version=version, **config)


def test_causal() -> None:
    for version in (None, "2"):
        pad = read(version=version, padding="Causal", dilation_rate=2).program.stages[0]
        assert isinstance(pad, Pad)
        assert (pad.before, pad.after) == ((0, 4), (0, 0))
    for version in ("3", "3.15"):
        with pytest.raises(ConfigError, match="causal"):
            read(version=version, padding="causal")
    with pytest.raises(ConfigError, match="causal"):
        read("DepthwiseConv1D", padding="causal")


def test_strides_with_dilation() -> None:
    for version in (None, "2", "3", "3.14.1"):
        with pytest.raises(ConfigError, match="dilation_rate"):
            read(version=version, strides=2, dilation_rate=2)
    assert read(version="3.15", strides=2, dilation_rate=2).program.output.shape == (None, 3, 4)
    with pytest.raises(ConfigError, match="strides"):
        read("SeparableConv2D", (None, 9, 9, 3), None, strides=[2, 1], dilation_rate=[1, 2])


def test_hard_sigmoid() -> None:
    for version, scale in (("2", 0.2), ("3", 1 / 6)):
        stage = read(version=version, activation="hard_sigmoid").program.stages[-1]
        assert isinstance(stage, Activation)
        assert stage.param("scale") == scale
    with pytest.raises(ConfigError, match="keras_version"):
        read(activation="hard_sigmoid")


@pytest.mark.parametrize("name", ["LeakyReLU", "ReLU", "PReLU", "ELU", "Softmax", "ThresholdedReLU"])
def test_class_names_as_strings(name: str) -> None:
    assert read(activation=name).program.stages
    with pytest.raises(ConfigError, match="activation"):
        read(version="3", activation=name)


def test_functions_of_keras_3_only() -> None:
    with pytest.raises(ConfigError, match="celu"):
        read(version="2", activation="celu")


@pytest.mark.parametrize(
    "name",
    [
        "SeparableConvolution1D",
        "keras.layers.SeparableConv1D",
        "tf.keras.layers.SeparableConv1D",
        "tf.compat.v1.keras.layers.SeparableConv1D",
        "keras.src.layers.convolutional.separable_conv1d.SeparableConv1D",
        "tf_keras.layers.SeparableConv1D",
        "layer_separable_conv_1d",
        "keras::layer_separable_conv_1d",
    ],
)
def test_aliases(name: str) -> None:
    base = {"class_name": name, "config": {"filters": 4, "kernel_size": 3}}
    assert read_layer(base, input_shape=(None, 9, 3)).config["class_name"] == "SeparableConv1D"


@pytest.mark.parametrize("module", ["os", "keras.models", "my.layers", 3])
def test_foreign_modules(module: Any) -> None:
    layer = {"module": module, "class_name": "SeparableConv1D", "config": {"filters": 4, "kernel_size": 3}}
    with pytest.raises(ConfigError, match="module"):
        read_layer(layer, input_shape=(None, 9, 3))


def test_custom_subclass() -> None:
    layer = {"class_name": "SeparableConv1D", "registered_name": "mine>SeparableConv1D", "config": {}}
    with pytest.raises(UnsupportedError, match="registered_name"):
        read_layer(layer, input_shape=(None, 9, 3))


def test_r_config() -> None:
    config = {
        "filters": [4.0],
        "kernel_size": [3.0],
        "strides": {},
        "padding": ["same"],
        "activation": ["relu"],
        "use_bias": [True],
        "input_shape": [9.0, 3.0],
        "batch_size": None,
        "name": {},
        "depthwise_initializer": {"class_name": ["HeNormal"], "config": {"seed": [3]}},
        "weights": None,
    }
    imported = read_layer({"class_name": "layer_separable_conv_1d", "config": config})
    assert imported.generation == "r"
    assert imported.program.output.shape == (None, 9, 4)


def _boxed(value: Any, unbox: bool) -> Any:
    """A config as R's ``jsonlite::toJSON(x, auto_unbox = unbox)`` writes it."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {key: _boxed(item, unbox) for key, item in value.items()}
    if isinstance(value, list | tuple):  # reticulate makes a list of one-element vectors of it
        return [_boxed(item, unbox) for item in value]
    return value if unbox else [value]


@pytest.mark.parametrize("unbox", [False, True])
@pytest.mark.parametrize("envelope", [False, True])
@pytest.mark.parametrize("activation", ["relu", keras.layers.ReLU(max_value=6)])
def test_what_r_writes_of_get_config(activation: Any, envelope: bool, unbox: bool) -> None:
    layer = keras.layers.SeparableConv2D(8, (3, 2), strides=2, activation=activation, name="conv1")
    layer.build((None, 9, 9, 3))
    python = keras.saving.serialize_keras_object(layer) if envelope else layer.get_config()
    shape = None if envelope else (None, 9, 9, 3)
    expected = read_layer(python, input_shape=shape)
    found = read_layer(json.dumps(_boxed(python, unbox)), input_shape=shape)
    assert found.generation == "r"
    assert found.program.stages == expected.program.stages and found.program.output == expected.program.output


def test_weights_in_the_config() -> None:
    arrays = [np.ones((3, 3, 1)), np.ones((1, 3, 4)), np.ones(4)]
    imported = read("layer_separable_conv_1d"[:0] or "SeparableConv1D", weights=arrays, input_shape=[9, 3], shape=None)
    assert not imported.weights_drawn
    assert imported.generation == "keras2"


def test_keras_2_file_config() -> None:
    config = {
        "name": "sep", "trainable": True, "batch_input_shape": [None, 8, 8, 3], "dtype": "float32", "filters": 4,
        "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "data_format": "channels_last",
        "dilation_rate": [1, 1], "groups": 1, "activation": "linear", "use_bias": True, "depth_multiplier": 1,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}}, "kernel_regularizer": None,
        "kernel_constraint": None, "bias_initializer": {"class_name": "Zeros", "config": {}},
        "depthwise_initializer": {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}},
    }  # fmt: skip
    imported = read_layer(config)
    assert (imported.generation, imported.config["class_name"]) == ("keras2", "SeparableConv2D")
    assert imported.ignored["groups"] == 1


def test_table_covers_every_key() -> None:
    rows = {row[0] for name in ("SeparableConv1D", "DepthwiseConv2D") for row in table(name)}
    assert rows == {key.name for key in KEYS}


MUTATIONS: dict[str, list[Any]] = {
    "name": ["other"], "filters": [5], "kernel_size": [2, [2, 3]], "strides": [2, [1, 2]], "padding": ["same"],
    "data_format": ["channels_first"], "dilation_rate": [2], "depth_multiplier": [2], "activation": ["relu", "softmax"],
    "use_bias": [False], "dtype": ["float16", "mixed_float16"], "depthwise_initializer": ["ones", "he_normal"],
    "pointwise_initializer": ["ones"], "bias_initializer": ["ones"], "weights": [[1]], "input_shape": [[8, 8, 3]],
    "batch_input_shape": [[None, 8, 8, 3]], "batch_size": [2], "trainable": [False], "depthwise_regularizer": ["l1"],
    "pointwise_regularizer": ["l2"], "bias_regularizer": ["l2"], "activity_regularizer": ["l1"],
    "depthwise_constraint": ["non_neg"], "pointwise_constraint": ["unit_norm"], "bias_constraint": ["non_neg"],
    "rank": [2, 3], "groups": [1, 2], "kernel_initializer": ["zeros"], "kernel_regularizer": ["l1"],
    "kernel_constraint": ["non_neg"], "implementation": [1], "dynamic": [False, True], "autocast": [True, False],
}  # fmt: skip


def _fingerprint(config: dict[str, Any]) -> str:
    layer = {"class_name": "SeparableConv2D", "config": config}
    try:
        read = read_layer(layer, input_shape=(None, 8, 8, 3))
    except SepcompileError as error:
        return str(error)
    return repr((read.program, sorted(read.weights.items(), key=str), read.config, read.ignored, read.generation))


@pytest.mark.parametrize("key", [key.name for key in KEYS])
def test_no_key_is_lost(key: str) -> None:
    base = {"filters": 4, "kernel_size": 3}
    prints = [_fingerprint(base), *(_fingerprint({**base, key: value}) for value in MUTATIONS[key])]
    assert len(set(prints)) == len(prints)
