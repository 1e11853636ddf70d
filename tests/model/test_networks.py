"""Every separable block of five networks is found, compiles, and agrees with Keras at its point of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sepcompile
from sepcompile.frontend.model import Model, Unit, read_model, report
from sepcompile.ir import reference
from tests.model import zoo

# Blocks that CI compiles; `-m slow` compiles every one.
IN_CI = {"ds_cnn": 2, "mobilenet": 4, "mobilenet_v2": 3, "xception": 1, "nasnet_mobile": 2}


@pytest.fixture(scope="module", params=list(zoo.NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[str, Any, Model]:
    model = zoo.build(request.param)
    return request.param, model, read_model(model)


def test_every_block_is_found_whole(network: tuple[str, Any, Model]) -> None:
    name, model, read = network
    found = report(read)
    separable = [row for row in found.layers if row.class_name in ("DepthwiseConv2D", "SeparableConv2D")]
    assert len(found.artifacts) == len(separable) == zoo.BLOCKS[name]
    assert all(row.artifact for row in separable)
    for row in found.layers:
        assert (row.artifact is None) != (row.reason is None)
    for unit in read.units:
        classes = [read.graph.nodes[number].layer.class_name for number in unit.block.calls]
        following = classes[classes.index(read.graph.nodes[unit.block.conv].layer.class_name) :]
        assert following[1] == "BatchNormalization"
        if name.startswith(("mobilenet", "ds_cnn")):
            assert following[2:5] == ["ReLU", "Conv2D", "BatchNormalization"]
    assert _shapes_are_keras_own(model, read)


def _shapes_are_keras_own(model: Any, read: Model) -> bool:
    from sepcompile.frontend.model.graph import Ref

    for number, node in enumerate(read.graph.nodes):
        assert read.graph.shapes[Ref(number)] == tuple(model.get_layer(node.layer.name).output.shape), node.layer.path
    return True


def test_reference_agrees_with_keras(network: tuple[str, Any, Model]) -> None:
    """The float64 interpreter on every block: what the kernels are tested against elsewhere."""
    name, model, read = network
    units = read.units if name != "nasnet_mobile" else read.units[::8]
    for point in zoo.points(model, read, units):
        imported = read.build(point.unit)
        got = reference.evaluate(imported.program, imported.weights, *point.inputs)
        zoo.assert_within(read, point, imported, got)


def check_compiled(model: Any, read: Model, units: list[Unit], folder: Path) -> None:
    built = sepcompile.compile(model, output=folder, layers=[unit.name for unit in units])
    parts = {part.name: part for part in built.parts}
    assert set(parts) == {unit.name for unit in units}
    for point in zoo.points(model, read, units):
        got = parts[point.unit.name].load(threads=1)(*point.inputs)
        zoo.assert_within(read, point, read.build(point.unit), got)


def test_some_blocks_compile(network: tuple[str, Any, Model], tmp_path: Path) -> None:
    name, model, read = network
    units = zoo.distinct(read, read.units)
    step = max(1, len(units) // IN_CI[name])
    check_compiled(model, read, units[::step][: IN_CI[name]], tmp_path / "net")


@pytest.mark.slow
def test_every_block_compiles(network: tuple[str, Any, Model], tmp_path: Path) -> None:
    _, model, read = network
    check_compiled(model, read, list(read.units), tmp_path / "net")
