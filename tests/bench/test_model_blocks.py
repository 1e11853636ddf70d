"""The blocks of a model as rows of a race: the same function as the program's, whatever stands around the layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from sepcompile import bench
from sepcompile.bench import model_blocks
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import ALONE, geometry, load_case, own_layout, to_nhwc
from sepcompile.bench.reference import evaluate
from sepcompile.cli.commands.bench import command
from sepcompile.ir import reference
from tests.model.test_files import zoo_randomized


def network() -> Any:
    """A block of each sort."""
    x = given = keras.Input((12, 10, 6), name="img")
    skip = layers.Rescaling(2.0, name="start")(x)
    y = layers.ReLU(name="early")(skip)
    y = layers.BatchNormalization(name="bn")(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(y))
    y = layers.BatchNormalization(name="bn2")(layers.Conv2D(6, 1, use_bias=False, name="mix")(layers.ReLU(6.0)(y)))
    x = layers.ReLU(name="end")(layers.Add(name="add")([skip, y]))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(layers.MaxPooling2D(2, name="pool")(x))
    x = layers.SeparableConv2D(6, 3, strides=2, activation="silu", name="sep")(x)
    x = layers.MaxPooling2D(1, name="pool2")(x)
    x = layers.DepthwiseConv2D(2, padding="same", depth_multiplier=2, activation="elu", name="alone")(x)
    x = layers.MaxPooling2D(1, name="pool3")(x)
    x = layers.DepthwiseConv2D(2, padding="same", activation="tanh", name="tanh")(x)
    for name in ("like", "like2"):
        x = layers.MaxPooling2D(1, name=f"{name}_pool")(x)
        x = layers.SeparableConv2D(12, 3, padding="same", name=name)(x)
    x = layers.Reshape((6, 12), name="line")(layers.MaxPooling2D(1, name="pool4")(x))
    return zoo_randomized(keras.Model(given, layers.SeparableConv1D(4, 3, padding="same", name="one")(x)))


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def test_rows(model: Any) -> None:
    found = model_blocks.find(model)
    rows = {block.layer.name: block for block in found.rows}
    assert {name: block.count for name, block in rows.items()} == {
        "dw": 1, "sep": 1, "alone": 1, "like": 2, "one": 1,
    }  # fmt: skip
    assert len(found.notes) == 1 and "tanh is not raced: the activation tanh" in found.notes[0]
    around = geometry(rows["dw"].layer).around
    assert (around.before, around.middle, around.last) == ("relu", "relu6", "relu")
    assert around.residual and around.middle_bias
    assert geometry(rows["sep"].layer).around == ALONE
    assert geometry(rows["sep"].layer).pad_after == (1, 1)
    every = model_blocks.find(model, every=True, prefix="net.")
    assert [block.layer.name for block in every.rows][-2:] == ["net.like2", "net.one"]


def test_a_row_computes_what_its_program_does(model: Any, tmp_path: Path) -> None:
    """The benchmark's own reference, through its files, against the interpreter of programs."""
    found = model_blocks.find(model)
    model_blocks.write_cases(found.rows, tmp_path)
    for block in found.rows:
        layer, data, expected = load_case(tmp_path / block.layer.name)
        geo = geometry(layer)
        arrays = [array for array in (data.x, data.residual) if array is not None]
        inputs = [own_layout(geo, array) for array in arrays]
        exact = reference.evaluate(block.imported.program, block.imported.weights, *inputs)
        np.testing.assert_allclose(to_nhwc(geo, exact), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(evaluate(geo, data), expected)


def test_ours_in_a_race(model: Any, tmp_path: Path) -> None:
    found = model_blocks.find(model, ["dw", "one"])
    options = bench.BenchOptions(
        blocks=found.rows, suite="blocks of a net", peers=("sepcompile",), rounds=1, budget_ms=1.0, ceilings=False,
        work_dir=tmp_path,
    )  # fmt: skip
    report = bench.run(options)
    assert {(r.layer, r.status) for r in report.results} == {("dw", "ok"), ("one", "ok")}, report.warnings
    assert report.options["suite"] == "blocks of a net"


def test_the_command(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "net.keras")
    arguments = [str(tmp_path / "net.keras"), "--layer", "sep", "--peer", "sepcompile", "--rounds", "1", "--json"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert '"blocks of net.keras"' in done.output
    assert CliRunner().invoke(command, [*arguments, "--model", "x"]).exit_code == 2
    assert "--emulate" in CliRunner().invoke(command, [arguments[0], "--emulate"]).output


def test_nothing_to_race() -> None:
    layer = layers.DepthwiseConv2D(3, activation="tanh", name="dw")
    with pytest.raises(BenchError, match="no block of it can be raced; dw is not raced"):
        model_blocks.find(keras.Sequential([keras.Input((8, 8, 3)), layer]))
