"""The same weights as Keras reads, bit for bit, from every kind of file; graphs of nested and shared layers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import save_file

import sepcompile
from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError, WeightError
from sepcompile.frontend.model import Model, is_model, read_model, report
from sepcompile.frontend.model.graph import Ref
from sepcompile.ir import reference
from tests.model import zoo

DATA = Path(__file__).parent / "data"
KERAS_2 = ("keras2_mobile", "keras2_causal_net")


def nested() -> Any:
    """Every supported layer, in Sequential and Functional models inside each other, and a layer called twice."""
    block = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.SeparableConv2D(6, (3, 2), padding="same", depth_multiplier=2, activation="relu", name="sep"),
            layers.BatchNormalization(scale=False, name="norm"),
        ],
        name="block",
    )
    inner_in = keras.Input((8, 8, 6))
    inner = keras.Model(inner_in, layers.PReLU(shared_axes=[1, 2], name="prelu")(block(inner_in)), name="inner")
    x = given = keras.Input((8, 8, 6), name="img")
    x = layers.ReLU(name="early")(x)
    x = skip = inner(x)
    # Named after another class: files of Keras 3 go by class and position.
    x = layers.DepthwiseConv2D(3, padding="same", name="separable_conv2d")(x)
    x = layers.Conv2D(6, 1, name="mix")(x)
    x = layers.BatchNormalization(center=False, name="norm")(x)
    twice = layers.DepthwiseConv2D(3, padding="same", name="twice")
    x = layers.Add(name="add")([twice(x), twice(skip)])
    x = layers.Reshape((64, 6), name="flat")(x)
    x = layers.ZeroPadding1D((2, 0), name="pad1")(x)
    x = layers.SeparableConv1D(5, 3, strides=2, name="sep1")(x)
    x = layers.DepthwiseConv1D(3, use_bias=False, name="dw1")(x)
    x = layers.Conv1D(4, 1, activation="softmax", name="mix1")(x)
    return zoo_randomized(keras.Model(given, x, name="nested"))


def zoo_randomized(model: Any, seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(0.0, 0.5, tuple(weight.shape)).astype("float32")
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def live_layers(model: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in model.layers:
        found[prefix + layer.name] = layer
        if isinstance(layer, keras.Model):
            found |= live_layers(layer, f"{prefix}{layer.name}/")
    return found


def assert_same_weights(read: Model, model: Any) -> int:
    """Every layer's arrays, as the file has them, against ``get_weights()``."""
    live, compared = live_layers(model), 0
    for layer in {node.layer.path: node.layer for node in read.graph.nodes}.values():
        expected = live[layer.path].get_weights()
        if not expected:
            continue
        found = read.store.arrays(layer)
        names = [weight.name for weight in live[layer.path].weights]
        arrays = [found[name] for name in names] if isinstance(found, dict) else list(found)
        assert [(a.dtype, a.shape) for a in arrays] == [(e.dtype, e.shape) for e in expected], layer.path
        assert all(a.tobytes() == e.tobytes() for a, e in zip(arrays, expected, strict=True)), layer.path
        compared += len(arrays)
    return compared


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("build", [nested, zoo.ds_cnn], ids=["nested", "ds_cnn"])
def test_files_of_keras_3(suffix: str, build: Any, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    zoo_randomized(build()).save(path)
    read, model = read_model(path), keras.models.load_model(path)
    assert assert_same_weights(read, model) == len(model.weights)
    assert read.keras_version == keras.__version__
    assert is_model(path) and is_model(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", list(zoo.NETWORKS))
def test_networks_of_keras_3(suffix: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    model = zoo.build(name)
    model.save(path)
    read = read_model(path)
    assert assert_same_weights(read, model) == len(model.weights)
    assert len(report(read).artifacts) == zoo.BLOCKS[name]


def weight_files(model: Any, folder: Path) -> list[Path]:
    """The same weights in every kind of file."""
    arrays = {weight.path: np.asarray(weight.value) for weight in model.weights}
    model.save_weights(folder / "w.weights.h5")
    model.save(folder / "whole.h5")
    np.savez(folder / "w.npz", **arrays)
    save_file({name.replace("/", "."): a for name, a in arrays.items() if name.count("/") == 1} | {
        name: a for name, a in arrays.items() if name.count("/") > 1}, folder / "w.safetensors")  # fmt: skip
    return [folder / name for name in ("w.weights.h5", "whole.h5", "w.npz", "w.safetensors")]


def test_a_config_with_separate_weights(tmp_path: Path) -> None:
    model = nested()
    (tmp_path / "model.json").write_text(model.to_json())
    live = read_model(model)
    for path in weight_files(model, tmp_path):
        for source in (tmp_path / "model.json", model.to_json(), json.loads(model.to_json())):
            read = read_model(source, weights=path)
            assert [unit.name for unit in read.units] == [unit.name for unit in live.units]
            for unit, other in zip(read.units, live.units, strict=True):
                a, b = read.build(unit), live.build(other)
                assert a.program == b.program and not a.weights_drawn
                assert all(np.array_equal(a.weights[name], b.weights[name]) for name in b.weights)


def test_weights_are_drawn_without_any(tmp_path: Path) -> None:
    read = read_model(nested().to_json())
    one, two, other = (read.build(read.units[0], seed) for seed in (0, 0, 1))
    assert one.weights_drawn and "drawn" in one.notes[-1]
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert not all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_shapes_and_blocks_of_nested_models() -> None:
    model = nested()
    read = read_model(model)
    blocks = {u.name: [read.graph.nodes[n].layer.path for n in u.block.calls] for u in read.units}
    assert blocks == {
        "inner_block_sep": ["early", "inner/block/sep"],
        "separable_conv2d": ["separable_conv2d", "mix", "norm"],
        "twice": ["twice", "add"],
        "twice_2": ["twice"],
        "sep1": ["pad1", "sep1"],
        "dw1": ["dw1", "mix1"],
    }
    shapes = {read.graph.tensor_name(Ref(n)): read.graph.shapes[Ref(n)] for n in range(len(read.graph.nodes))}
    assert shapes["inner/block/norm"] == (None, 8, 8, 6)
    assert shapes["mix1"] == tuple(model.output.shape)


def test_nested_blocks_compute_what_keras_does() -> None:
    model = nested()
    read = read_model(model)
    built = {unit.name: read.build(unit) for unit in read.units}
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")

    def run(name: str, *inputs: Any) -> Any:
        return reference.evaluate(built[name].program, built[name].weights, *inputs)

    inner = model.get_layer("inner")
    block = inner.get_layer("block")
    y = run("inner_block_sep", x)
    np.testing.assert_allclose(y, block.get_layer("sep")(np.maximum(x, 0)), rtol=1e-4, atol=1e-5)
    skip = np.asarray(inner(np.maximum(x, 0)))
    mixed = run("separable_conv2d", skip)
    added = run("twice", mixed, run("twice_2", skip))
    last = run("dw1", run("sep1", added.reshape(2, 64, 6)))
    np.testing.assert_allclose(last, model(x), rtol=1e-4, atol=1e-5)


def shared_across_models() -> Any:
    """A layer that belongs to a nested model and to the model around it."""
    both = layers.DepthwiseConv2D(3, padding="same", name="both")
    inside = keras.Input((8, 8, 6))
    own = layers.DepthwiseConv2D(3, padding="same", name="own")
    inner = keras.Model(inside, layers.Rescaling(0.5, name="half")(both(own(inside))), name="inner")
    given = keras.Input((8, 8, 6), name="img")
    return zoo_randomized(keras.Model(given, both(layers.MaxPooling2D(1, name="pool")(inner(given))), name="net"))


def test_a_layer_shared_across_models(tmp_path: Path) -> None:
    """Legacy files hold its weights twice. Keras 3's own hold them once and do not say that the other layer shares
    them: Keras cannot load such a file, and here the place without weights is the only one left out."""
    model = shared_across_models()
    model.save(tmp_path / "net.h5")
    model.save(tmp_path / "net.keras")
    legacy, live, archive = read_model(tmp_path / "net.h5"), read_model(model), read_model(tmp_path / "net.keras")
    assert [unit.name for unit in legacy.units] == ["inner_own", "inner_both", "both"]
    for read in (legacy, live):
        assert_same_weights(read, model)
        inner, outer = (read.build(read.units[number]).weights for number in (1, 2))
        assert all(np.array_equal(inner[name], outer[name]) for name in inner)
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.models.load_model(tmp_path / "net.keras")
    rows = {row.path: row for row in report(archive).layers}
    assert rows["inner/own"].artifact and rows["inner/both"].artifact
    assert "no group 'layers/depthwise_conv2d' with weights" in str(rows["both"].reason)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")
    fast = sepcompile.optimize(model)
    np.testing.assert_allclose(np.asarray(fast(x)), np.asarray(model(x)), rtol=1e-4, atol=1e-5)


# ---- Keras 2 -------------------------------------------------------------------------------------------------------


def sources(name: str) -> list[Model]:
    path = DATA / name
    return [
        read_model(path.with_suffix(".h5")),
        read_model(path.with_suffix(".keras")),
        read_model(path.with_suffix(".json"), weights=f"{path}.weights.h5"),
        read_model(path.with_suffix(".json"), weights=path.with_suffix(".h5")),
    ]


@pytest.mark.parametrize("name", KERAS_2)
def test_files_of_keras_2(name: str) -> None:
    """Weights are those of tf_keras's ``get_weights()``, stored when the files were written."""
    stored = np.load(DATA / f"{name}.npz")
    expected = {key.removeprefix("weight/"): stored[key] for key in stored.files if key.startswith("weight/")}
    for read in sources(name):
        assert read.keras_version is not None and read.keras_version.startswith("2.")
        compared = 0
        for layer in {node.layer.path: node.layer for node in read.graph.nodes}.values():
            wanted = {
                k.removesuffix(":0").rsplit("/", 1)[-1]: v for k, v in expected.items() if layer.name in k.split("/")
            }
            if not wanted:
                continue
            found = read.store.arrays(layer)
            arrays = list(found.values()) if isinstance(found, dict) else list(found)
            assert len(arrays) == len(wanted)
            for array, value in zip(arrays, wanted.values(), strict=True):
                assert array.dtype == value.dtype and array.tobytes() == value.tobytes(), layer.path
            compared += len(arrays)
        assert compared == len(expected)


def test_keras_2_blocks_agree_with_keras_2() -> None:
    stored = np.load(DATA / "keras2_mobile.npz")
    for read in sources("keras2_mobile"):
        built = {unit.name: read.build(unit) for unit in read.units}
        assert list(built) == ["dw", "inner_sep", "shared", "shared_2"]
        for name, x, y in (("dw", "at/stem_bn", "at/pw_bn"), ("inner_sep", "at/pw_bn", "at/inner")):
            program, weights = built[name].program, built[name].weights
            got = reference.evaluate(program, weights, stored[x])
            np.testing.assert_allclose(got, stored[y], rtol=1e-4, atol=1e-5)
        first, second = built["shared"], built["shared_2"]
        other = reference.evaluate(second.program, second.weights, stored["at/pw_bn"])
        total = reference.evaluate(first.program, first.weights, stored["at/inner"], other)
        np.testing.assert_allclose(total, stored["y"], rtol=1e-4, atol=1e-5)


def test_keras_2_causal_net_agrees_with_keras_2() -> None:
    stored = np.load(DATA / "keras2_causal_net.npz")
    for read in sources("keras2_causal_net"):
        value = stored["x"]
        for unit in read.units:
            built = read.build(unit)
            value = reference.evaluate(built.program, built.weights, value)
        np.testing.assert_allclose(value, stored["y"], rtol=1e-4, atol=1e-5)


# ---- what is said when something is missing ------------------------------------------------------------------------


def test_a_model_of_open_size_needs_a_shape() -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), layers.DepthwiseConv2D(3, name="dw")])
    (row,) = [row for row in report(read_model(model)).layers if row.path == "dw"]
    assert row.artifact is None and "dynamic spatial size" in str(row.reason)
    read = read_model(model, input_shape=(None, 9, 7, 3))
    assert read.build(read.units[0]).program.output.shape == (None, 7, 5, 3)


@pytest.mark.parametrize("name", ["missing.keras", "missing.h5", "missing.json"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=name):
        read_model(tmp_path / name)


def test_weights_of_another_model(tmp_path: Path) -> None:
    zoo.ds_cnn().save_weights(tmp_path / "other.weights.h5")
    read = read_model(nested().to_json(), weights=tmp_path / "other.weights.h5")
    for unit in read.units:
        with pytest.raises(WeightError):
            read.build(unit)


def test_a_weight_file_is_not_a_model(tmp_path: Path) -> None:
    nested().save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ConfigError, match="weights="):
        read_model(tmp_path / "w.weights.h5")


def test_subclassed_models_are_refused() -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises((ConfigError, UnsupportedError)):
        read_model(Own())


def test_training_mode_stays_with_keras() -> None:
    """``training=True`` makes a BatchNormalization use the batch's own statistics: it cannot be folded."""
    x = given = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, name="dw")(x)
    x = layers.BatchNormalization(name="bn")(x, training=True)
    rows = {row.path: row for row in report(read_model(keras.Model(given, x))).layers}
    assert rows["dw"].artifact == "dw" and rows["bn"].artifact is None


def test_a_tensor_that_is_read_twice_stays_outside() -> None:
    x = given = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, padding="same", name="dw")(x)
    act = layers.ReLU(name="act")(x)
    both = keras.Model(given, [layers.Add()([x, act]), act])
    (unit,) = (read := read_model(both)).units
    assert [read.graph.nodes[n].layer.name for n in unit.block.calls] == ["dw"]
    inner = keras.Model(given, [x, layers.BatchNormalization(name="bn")(x)])
    (unit,) = (read := read_model(inner)).units
    assert [read.graph.nodes[n].layer.name for n in unit.block.calls] == ["dw"]


@pytest.mark.parametrize(
    "activation,padded_first,inside",
    [("relu", True, True), ("relu", False, True), ("hard_sigmoid", True, False), ("hard_sigmoid", False, True)],
)
def test_zeros_of_a_padding_before_an_activation(activation: str, padded_first: bool, inside: bool) -> None:
    """A kernel pads after its activation: right where the activation of 0 is 0, or where Keras does so too."""
    x = given = keras.Input((6, 6, 3))
    steps = [layers.ZeroPadding2D(1, name="pad"), layers.Activation(activation, name="act")]
    for step in steps if padded_first else steps[::-1]:
        x = step(x)
    model = zoo_randomized(keras.Model(given, layers.DepthwiseConv2D(3, name="dw")(x)))
    (unit,) = (read := read_model(model)).units
    names = [read.graph.nodes[n].layer.name for n in unit.block.calls]
    assert ("pad" in names) == inside and "act" in names
    if inside:
        x = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype("float32")
        built = read.build(unit)
        got = reference.evaluate(built.program, built.weights, x)
        np.testing.assert_allclose(got, model(x), rtol=1e-4, atol=1e-5)


def test_channels_first_blocks() -> None:
    x = given = keras.Input((4, 9, 7))
    x = layers.ReLU()(layers.ZeroPadding2D(((1, 0), (0, 2)), data_format="channels_first")(x))
    x = layers.DepthwiseConv2D(3, strides=(2, 1), depth_multiplier=2, data_format="channels_first")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv2D(5, 1, data_format="channels_first", activation="softmax")(x)
    model = zoo_randomized(keras.Model(given, x))
    (unit,) = (read := read_model(model)).units
    assert len(unit.block.calls) == 6
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 7)).astype("float32")
    built = read.build(unit)
    got = reference.evaluate(built.program, built.weights, x)
    np.testing.assert_allclose(got, model(x), rtol=1e-4, atol=1e-5)


def test_weights_of_another_layer_are_not_taken(tmp_path: Path) -> None:
    """Keras 3 finds weights by class and position: a config in another order would pair layers with wrong weights."""
    nested().save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"].reverse()
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else data)
    read = read_model(tmp_path / "other.keras")
    (unit,) = [unit for unit in read.units if unit.name == "separable_conv2d"]
    with pytest.raises(WeightError, match="holds the weights of"):
        read.build(unit)


def test_errors_name_the_file_and_the_layer(tmp_path: Path) -> None:
    model = nested()
    model.save(tmp_path / "net.keras")
    config = json.loads(model.to_json())
    for layer in config["config"]["layers"]:
        if layer["config"]["name"] == "dw1":
            layer["config"]["strides"] = 0
    (tmp_path / "net.json").write_text(json.dumps(config))
    read = read_model(tmp_path / "net.json")
    (row,) = [row for row in report(read).layers if row.path == "dw1"]
    assert row.reason is not None
    assert 'net.json: DepthwiseConv1D "dw1".strides=0' in row.reason
    with pytest.raises(SepcompileError, match="dw9"):
        read.select(("dw9",))
