"""``compile``, ``inspect`` and ``optimize`` on whole models, and the same from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import sepcompile
from sepcompile.api import Artifact
from sepcompile.errors import ArtifactError, ConfigError, ScheduleError, UnsupportedError
from sepcompile.frontend.model import ModelReport, read_model
from sepcompile.ir import reference
from tests.model.test_files import zoo_randomized

ENTRY = "from sepcompile.cli import main; main()"


def small() -> Any:
    """Two blocks, one of them in a nested model, between layers that stay with Keras."""
    x = given = keras.Input((9, 7, 3), name="img")
    x = layers.Conv2D(4, 3, name="stem")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="dw")(x)
    x = layers.ReLU(6.0, name="act")(layers.BatchNormalization(name="bn")(x))
    x = layers.Conv2D(6, 1, name="mix")(x)
    x = layers.MaxPooling2D(2, strides=1, padding="same", name="pool")(x)
    sep = layers.SeparableConv2D(5, 3, padding="same", activation="relu", name="sep")
    x = keras.Sequential([keras.Input((5, 3, 6)), layers.Activation("tanh", name="tanh"), sep], name="inner")(x)
    return zoo_randomized(keras.Model(given, layers.GlobalAveragePooling2D(name="mean")(x), name="small"))


@pytest.fixture(scope="module")
def model() -> Any:
    return small()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in files, and compiled."""
    path = tmp_path_factory.mktemp("small")
    model.save(path / "small.keras")
    model.save_weights(path / "small.weights.h5")
    (path / "small.json").write_text(model.to_json())
    (path / "built.json").write_text(json.dumps([str(compiled(path / "small.keras", path / "build").path)]))
    return path


def compiled(source: object, output: Path, **arguments: Any) -> Artifact:
    return sepcompile.compile(source, output=output, **arguments)


def around(model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    names = ["stem", "mix", "pool", "inner"]
    values = keras.Model(model.input, [model.get_layer(name).output for name in names])(x)
    return dict(zip(names, map(np.asarray, values), strict=True))


def test_every_source_gives_the_same_artifacts(model: Any, folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype("float32")
    at = around(model, x)
    results = []
    for number, (source, weights) in enumerate(
        [(folder / "small.keras", None), (model, None), (folder / "small.json", folder / "small.weights.h5")]
    ):
        built = compiled(source, tmp_path / str(number), weights=weights)
        assert [part.name for part in built.parts] == ["dw", "inner_sep"]
        assert not built.weights_drawn and built.path == tmp_path / str(number)
        first, second = (part.load(threads=1) for part in built.parts)
        results.append((first(at["stem"]), second(np.tanh(at["pool"]))))
        assert all(sepcompile.verify(part.path).passed for part in built.parts)
    np.testing.assert_allclose(results[0][0], at["mix"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[0][1], at["inner"], rtol=1e-4, atol=1e-5)
    for one, two in results[1:]:
        assert np.array_equal(one, results[0][0]) and np.array_equal(two, results[0][1])


def test_index(folder: Path) -> None:
    index = json.loads((folder / "build" / "model.json").read_text())
    assert (index["format"], index["format_version"], index["name"]) == ("sepcompile-model", 1, "small")
    assert index["artifacts"] == [
        {
            "name": "dw",
            "folder": "dw",
            "layers": ["dw", "bn", "act", "mix"],
            "input": {"tensor": "stem", "shape": [None, 7, 5, 4], "dtype": "float32"},
            "output": {"tensor": "mix", "shape": [None, 5, 3, 6], "dtype": "float32"},
        },
        {
            "name": "inner_sep",
            "folder": "inner_sep",
            "layers": ["inner/sep"],
            "input": {"tensor": "inner/tanh", "shape": [None, 5, 3, 6], "dtype": "float32"},
            "output": {"tensor": "inner/sep", "shape": [None, 5, 3, 5], "dtype": "float32"},
        },
    ]
    rows = {row["layer"]: row for row in index["layers"]}
    assert rows["bn"]["artifact"] == "dw" and rows["bn"]["reason"] is None
    assert rows["pool"]["artifact"] is None and "MaxPooling2D" in rows["pool"]["reason"]
    # tanh takes many instructions: applied as the input is read it would be computed nine times.
    assert rows["inner/tanh"]["artifact"] is None


def test_the_manifest_names_every_layer_of_a_block(folder: Path) -> None:
    found = sepcompile.inspect(folder / "build" / "dw")
    assert not isinstance(found, ModelReport)
    config = found.layer["config"]
    assert [item["layer"] for item in config["block"]] == ["dw", "bn", "act", "mix"]


def test_patterns(folder: Path, tmp_path: Path) -> None:
    built = compiled(folder / "small.keras", tmp_path / "some", layers="inner/*")
    assert [part.name for part in built.parts] == ["inner_sep"]
    index = json.loads((tmp_path / "some" / "model.json").read_text())
    assert [entry["name"] for entry in index["artifacts"]] == ["inner_sep"]
    row = next(row for row in index["layers"] if row["layer"] == "dw")
    assert row["artifact"] is None and row["reason"] == "not asked for"
    # A layer in the middle of a block stands for its block.
    assert [part.name for part in compiled(folder / "small.keras", tmp_path / "bn", layers=["b?"]).parts] == ["dw"]
    for bad in ("nothing*", "", ["dw", ""], 3):
        with pytest.raises(ConfigError, match="layers"):
            compiled(folder / "small.keras", tmp_path / "none", layers=bad)
    with pytest.raises(ConfigError, match="one layer was given"):
        sepcompile.compile({"class_name": "DepthwiseConv2D", "config": {"kernel_size": 3}}, (None, 5, 5, 2), layers="a")


def test_compiling_again_replaces(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        built = compiled(folder / "small.keras", tmp_path / "again", layers="dw")
    assert sorted(item.name for item in built.path.iterdir()) == ["dw", "model.json"]


def test_folders_that_are_something_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", folder / "build" / "dw"):
        with pytest.raises(ArtifactError, match="expected a folder for several"):
            compiled(folder / "small.keras", place)
    for call in (sepcompile.load, sepcompile.verify, sepcompile.inspect):
        with pytest.raises(ArtifactError, match="dw, inner_sep"):
            call(folder / "build")
    with pytest.raises(ArtifactError):
        compiled(folder / "small.keras", tmp_path / "new", layers="dw").load()


def test_a_schedule_is_for_one_block(folder: Path, tmp_path: Path) -> None:
    manifest = sepcompile.inspect(folder / "build" / "dw")
    record = sepcompile.Schedule.from_json(dict(manifest.variants[0].schedule))
    with pytest.raises(ScheduleError, match="one block"):
        compiled(folder / "small.keras", tmp_path / "a", schedule=record)
    assert compiled(folder / "small.keras", tmp_path / "b", schedule=record, layers="dw").parts


def test_a_model_without_our_layers(tmp_path: Path) -> None:
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(UnsupportedError, match="no layer of it"):
        compiled(dense, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_broken_layer_does_not_stop_the_others(model: Any, folder: Path, tmp_path: Path) -> None:
    config = json.loads(model.to_json())
    for layer in config["config"]["layers"]:
        if layer["config"]["name"] == "bn":
            layer["config"]["epsilon"] = -1.0
        if layer["config"]["name"] == "dw":
            layer["config"]["kernel_size"] = [30, 3]
    built = compiled(config, tmp_path / "rest")
    assert [part.name for part in built.parts] == ["inner_sep"] and built.weights_drawn
    assert any("dw is left out" in note and "kernel_size" in note for note in built.notes)
    with pytest.raises(ConfigError, match="kernel_size"):
        compiled(config, tmp_path / "asked", layers="dw")


def test_inspect(folder: Path, model: Any) -> None:
    for source in (folder / "small.keras", str(folder / "small.json"), model):
        found = sepcompile.inspect(source)
        assert isinstance(found, ModelReport)
        assert found.artifacts == ("dw", "inner_sep")
        rows = {row.path: row for row in found.layers}
        assert rows["dw"].macs == 5 * 3 * 4 * 9 and rows["mix"].flops == 2 * 5 * 3 * 4 * 6
        assert rows["stem"].macs == 7 * 5 * 4 * 27 and rows["inner/sep"].macs == 5 * 3 * 6 * (9 + 5)
        assert found.covered_macs == sum(rows[name].macs or 0 for name in ("dw", "mix", "inner/sep"))
    with pytest.raises(ConfigError):
        sepcompile.inspect(3)


def test_half_precision_blocks(tmp_path: Path) -> None:
    """float16 at the edges, float32 inside: within the bound for float16, as Keras's own result is."""
    policy = "mixed_float16"
    x = given = keras.Input((8, 8, 6), dtype="float16")
    x = layers.ReLU(dtype=policy)(x)
    x = layers.DepthwiseConv2D(3, name="dw", dtype=policy)(x)
    x = layers.ReLU(6.0, dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.BatchNormalization(dtype=policy)(layers.Conv2D(4, 1, dtype=policy)(x))
    half = zoo_randomized(keras.Model(given, layers.ReLU(dtype="float32", name="wide")(x)))
    read = read_model(half)
    (unit,) = read.units
    # The last activation gives float32: it is not of the block.
    assert [read.graph.nodes[n].layer.name for n in unit.block.calls][-1].startswith("batch")
    imported = read.build(unit)
    assert (imported.program.input.dtype, imported.program.output.dtype) == ("float16", "float16")
    (part,) = compiled(half, tmp_path / "half").parts
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float16")
    exact = reference.evaluate(imported.program, imported.weights, x)
    bound = reference.error_bound(imported.program, imported.weights, x, reference.EPS_FLOAT16)
    got = part.load()(x)
    assert got.dtype == np.float16 and (np.abs(got - exact) <= bound).all()
    assert (np.abs(np.asarray(half(x)) - np.maximum(exact, 0)) <= bound).all()


# ---- optimize --------------------------------------------------------------------------------------------------------


def test_optimize_computes_the_same(model: Any) -> None:
    fast = sepcompile.optimize(model)
    names = [layer.name for layer in fast.layers]
    assert "dw_compiled" in names and "bn" not in names and "pool" in names
    assert [layer.name for layer in fast.get_layer("inner").layers][1:] == ["tanh", "inner_sep_compiled"]
    x = np.random.default_rng(1).normal(size=(5, 9, 7, 3)).astype("float32")
    np.testing.assert_allclose(fast(x), model(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fast.predict(x, batch_size=2, verbose=0), model(x), rtol=1e-4, atol=1e-5)
    assert fast.get_layer("stem") is model.get_layer("stem")


def test_optimize_keeps_blocks_inside_their_models() -> None:
    """The same model compiles to blocks that reach into the nested one, which no single Keras layer could replace."""
    x = given = keras.Input((6, 6, 3))
    inner = keras.Sequential([keras.Input((6, 6, 3)), layers.SeparableConv2D(4, 3, name="sep")], name="inner")
    x = layers.ReLU(name="after")(inner(layers.ReLU(name="before")(x)))
    model = zoo_randomized(keras.Model(given, x))
    (unit,) = (read := read_model(model)).units
    assert [read.graph.nodes[n].layer.name for n in unit.block.calls] == ["before", "sep", "after"]
    fast = sepcompile.optimize(model)
    assert {"before", "after"} <= {layer.name for layer in fast.layers}
    assert fast.get_layer("inner").layers[-1].name == "inner_sep_compiled"
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_optimize_leaves_what_it_must(model: Any) -> None:
    x = given = keras.Input((6, 6, 3))
    twice = layers.DepthwiseConv2D(3, padding="same", name="twice")
    x = layers.Conv2D(3, 1, name="mix")(layers.Add()([twice(x), twice(twice(x))]))
    shared = keras.Model(given, layers.SeparableConv2D(4, 3, name="sep")(x))
    fast = sepcompile.optimize(shared)
    assert {"twice", "sep_compiled"} <= {layer.name for layer in fast.layers}
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(fast(x), shared(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="no block"):
        sepcompile.optimize(shared, layers="twice")
    with pytest.raises(UnsupportedError, match="Keras 3"):
        sepcompile.optimize("model.keras")


def test_optimize_several_inputs_and_outputs() -> None:
    a, b = keras.Input((6, 6, 3), name="a"), keras.Input((6, 6, 4), name="b")
    total = layers.Add()([layers.SeparableConv2D(4, 3, padding="same", name="one")(a), b])
    model = keras.Model({"a": a, "b": b}, {"sum": total, "more": layers.DepthwiseConv2D(3, name="two")(total)})
    zoo_randomized(model)
    fast = sepcompile.optimize(model)
    assert {"one_compiled", "two_compiled"} <= {layer.name for layer in fast.layers}
    x = {name: np.random.default_rng(1).normal(size=(2, 6, 6, n)).astype("float32") for name, n in (("a", 3), ("b", 4))}
    for found in (fast(x), fast.predict(x, verbose=0)):
        for name, expected in model(x).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="compiled already"):
        sepcompile.optimize(fast)


# ---- the command line ------------------------------------------------------------------------------------------------


def cli(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *arguments],
        cwd=where, text=True, capture_output=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip


def test_inspect_command(folder: Path) -> None:
    done = cli(folder, "inspect", "small.keras")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["layer", "class"]
    assert next(line for line in lines if line.startswith("bn ")).endswith(" dw")
    assert "- MaxPooling2D is not compiled" in next(line for line in lines if line.startswith("pool "))
    assert lines[-1].startswith("small: 2 artifacts, ")
    found = json.loads(cli(folder, "inspect", "small.json", "--weights", "small.weights.h5", "--json").stdout)
    assert found["artifacts"] == ["dw", "inner_sep"] and len(found["layers"]) == 10
    assert cli(folder, "inspect", "small.keras", "--asm").returncode == 2


def test_compile_command(folder: Path, tmp_path: Path) -> None:
    done = cli(folder, "compile", "small.keras", "--layer", "d*", "-o", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("compiled 1 block of small to ") and "[1/1] compiling dw" in done.stderr
    assert (tmp_path / "b" / "dw" / "manifest.json").is_file()
    found = json.loads(cli(folder, "compile", "small.keras", "-o", str(tmp_path / "c"), "--json").stdout)
    assert [item["name"] for item in found["artifacts"]] == ["dw", "inner_sep"]
    done = cli(folder, "compile", "small.keras", "--layer", "none")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "layers='none'" in done.stderr
    done = cli(folder, "verify", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'c' / 'dw'}: passed (" in done.stdout and "inner_sep: passed (" in done.stdout
    (tmp_path / "c" / "dw" / "weights.safetensors").write_bytes(b"")
    done = cli(folder, "verify", str(tmp_path / "c"), "--json")
    assert done.returncode == 1 and [item["passed"] for item in json.loads(done.stdout)] == [False, True]
    done = cli(folder, "run", str(tmp_path / "c"))
    assert done.returncode == 2 and "inner_sep" in done.stderr
