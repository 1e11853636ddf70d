"""Whatever is passed in, the answer is a layer or a typed error that names layer, field and value."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import illegal_layers, legal_layers

from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError
from sepcompile.frontend import read_layer
from sepcompile.frontend.keys import KEYS

FEW, MANY = (
    settings(max_examples=n, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    for n in (300, 3000)
)
BASE: dict[str, Any] = {"filters": 4, "kernel_size": 3, "name": "sep_1"}
SHAPE = (None, 8, 8, 3)


def read(layer: Any, **arguments: Any) -> Any:
    return read_layer(layer, **{"input_shape": SHAPE, "keras_version": "3.15", **arguments})


def separable(**config: Any) -> dict[str, Any]:
    return {"class_name": "SeparableConv2D", "config": {**BASE, **config}}


def refused(name: str, config: Any, shape: Any, what: str) -> None:
    with pytest.raises(SepcompileError) as caught:
        read_layer({"class_name": name, "config": config}, input_shape=shape, keras_version="3.15")
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 2500, what


@FEW
@given(illegal_layers())
def test_illegal(case: tuple[str, Any, Any, str]) -> None:
    if not accidentally_legal(case):
        refused(*case)


@pytest.mark.slow
@MANY
@given(illegal_layers())
def test_many_illegal(case: tuple[str, Any, Any, str]) -> None:
    if not accidentally_legal(case):
        refused(*case)


def accidentally_legal(case: tuple[str, Any, Any, str]) -> bool:
    """A bad shape of one rank may be a good one of another."""
    name, _, shape, what = case
    if what != "input_shape" or not isinstance(shape, tuple):
        return False
    return len(shape) == int(name[-2]) + 2 and min(size or 1 for size in shape) >= 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@FEW
@given(legal_layers(), st.sampled_from([key.name for key in KEYS]), ANYTHING)
def test_anything_in_any_key(layer: Any, key: str, value: Any) -> None:
    name, config, shape = layer
    with contextlib.suppress(SepcompileError):
        read_layer({"class_name": name, "config": {**config, key: value}}, input_shape=shape)


@FEW
@given(ANYTHING, ANYTHING, ANYTHING)
def test_anything_as_arguments(layer: Any, shape: Any, other: Any) -> None:
    good = {"layer": separable()}
    for arguments in ({"layer": layer}, {**good, "weights": other}, {**good, "seed": other}):
        for extra in ({"input_shape": SHAPE}, {"input_shape": shape}, {"keras_version": other}):
            with contextlib.suppress(SepcompileError):
                read_layer(**{**arguments, **extra})


class Hostile:
    """An object whose every attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("layer", [None, 3, object(), Hostile, dict, print, [], b"\xff", b"{", "", "no such file", "{"])
def test_objects(layer: Any) -> None:
    layer = Hostile() if layer is Hostile else layer
    with pytest.raises(SepcompileError):
        read(layer)
    with pytest.raises(SepcompileError):
        read(separable(activation=layer if layer is not None else 3))


@pytest.mark.parametrize(
    "text,says",
    [
        ('{"filters": 4, "filters": 8, "kernel_size": 3}', "twice"),
        ('{"filters": NaN}', "NaN"),
        ('{"filters": Infinity}', "Infinity"),
        ('{"filters": 1e400}', "1e400"),
        ('{"filters": ' + "9" * 4000 + "}", "4000 digits"),
        ('{"filters": 9223372036854775808, "kernel_size": 3}', "64 bits"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "deeper than"),
        ("[1]", "list"),
        ('{"filters": 4,}', "not JSON"),
        ('{"filters": 4, "kernel_size": -0.0}', "kernel_size"),
    ],
)
def test_json(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "layer.json"
    file.write_text(text)
    for source in (text, text.encode(), file, str(file)):
        with pytest.raises(ConfigError, match=says):
            read(source)


def test_json_files(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "latin.json")
    (tmp_path / "big.json").write_bytes(b" " * (9 * 2**20))
    for path in ("big.json", "missing.json", "."):
        with pytest.raises(ConfigError):
            read(tmp_path / path)
    (tmp_path / "good.json").write_text(json.dumps(separable()))
    assert read(tmp_path / "good.json").program.output.shape == (None, 6, 6, 4)
    with pytest.raises(UnsupportedError):
        read(tmp_path / "model.keras")


CASES = [
    ({"kernel_size": [1, 0]}, ["kernel_size", "[1, 0]", "2 of them"]),
    ({"strides": 0}, ["strides", "0", ">= 1"]),
    ({"depth_multiplier": 0}, ["depth_multiplier", "0", ">= 1"]),
    ({"filters": 2.5}, ["filters", "2.5", "integer"]),
    ({"padding": "full"}, ["padding", "'full'", "'same'"]),
    ({"padding": "causal"}, ["padding", "'causal'", "SeparableConv1D"]),
    ({"data_format": "NCW"}, ["data_format", "'NCW'", "'channels_first'"]),
    ({"activation": "nope"}, ["activation", "'nope'", "relu"]),
    ({"use_bias": "no"}, ["use_bias", "'no'", "True or False"]),
    ({"dtype": "float64"}, ["dtype", "'float64'", "float16", "bfloat16"]),
    ({"bias_initializer": "zeroes"}, ["bias_initializer", "'zeroes'", "Zeros"]),
    ({"depthwise_regularizer": "l3"}, ["depthwise_regularizer", "'l3'", "L2"]),
    ({"bias_constraint": "positive"}, ["bias_constraint", "'positive'", "NonNeg"]),
    ({"trainable": None}, ["trainable", "None", "True or False"]),
    ({"kernel_size": 9}, ["kernel_size", "(9, 9)", "input has 8"]),
    ({"foo": 1}, ["foo", "1", "unknown key", "filters"]),
    ({"groups": 1}, ["groups", "Keras 2"]),
    ({"activation": {"class_name": "ReLU", "config": {"max_value": -1}}}, ["activation.config.max_value", "-1"]),
]


@pytest.mark.parametrize("config,words", CASES, ids=[str(config) for config, _ in CASES])
def test_messages_name_layer_field_and_value(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SepcompileError) as caught:
        read(separable(**config))
    for word in ["SeparableConv2D", "sep_1", *words]:
        assert word in str(caught.value), str(caught.value)


def test_names_are_escaped_in_messages() -> None:
    with pytest.raises(ConfigError) as caught:
        read(separable(name='\x1b[2J"\n', strides=0))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shape,error",
    [
        ((None, None, 8, 3), UnsupportedError),
        ((None, 8, 8, None), ConfigError),
        ((8, 8, 3), ConfigError),
        ((0, 8, 8, 3), ConfigError),
        ((None, 2**31 - 1, 2**31 - 1, 3), ConfigError),
        (None, ConfigError),
    ],
)
def test_shapes(shape: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="input"):
        read(separable(), input_shape=shape)


def test_cyclic_config() -> None:
    config: dict[str, Any] = separable()
    config["config"]["activation"] = config
    with pytest.raises(ConfigError, match="deeper"):
        read(config)
