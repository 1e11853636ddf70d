"""Cortex-M: every grid bit-exact on emulated cores, within the memory that the manifest promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.errors import ArtifactError, BudgetError, ConfigError, TargetError
from sepcompile.ir.reference import EPS_FLOAT32, error_bound, evaluate
from sepcompile.targets import get_target
from tests.c_api.support import Program, library, member, sections
from tests.compile.cases import assert_close, expected, form_of, image, read, with_integers
from tests.compile.test_kernels import GRID, K3, label, options
from tests.compile.test_residual import second, with_residual

Case = tuple[str, dict[str, Any], tuple[int, ...]]
DS_CNN = {"filters": 64, "kernel_size": 3, "padding": "same", "activation": "relu"}
SOURCE = {"class_name": "SeparableConv2D", "config": {"name": "conv1", **DS_CNN}}
SHAPE = (None, 25, 5, 64)
# The whole grid where products and sums are two instructions, every third case where they are one.
CHOSEN = [
    pytest.param(case, target, id=f"{target}-{label(case)}")
    for target, cases in (("cortex-m4", GRID), ("cortex-m7", GRID[1::3]), ("cortex-m33", GRID[2::8]))
    for case in cases
]


@pytest.mark.parametrize(("case", "target"), CHOSEN)
def test_integers_are_bit_exact_and_memory_is_as_promised(case: Case, target: str, tmp_path: Path) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = np.concatenate([image(layer, integers=True, seed=seed) for seed in (1, 2)])
    reference, _ = expected(layer, x)
    program = Program(tmp_path, library(layer, get_target(target)), target)
    program.paint_stack()
    for at_end in (True, False):
        y = program.run(x, batch=2, at_end=at_end)
        np.testing.assert_array_equal(y.reshape(reference.shape), reference)
    assert program.static.stack is not None
    assert program.used_stack() <= program.static.stack <= 1024
    form, static = form_of(layer), program.static
    # One row of the depthwise result, rounded up to the arena's alignment; a depthwise layer needs nothing.
    row = form.out_width * form.depthwise_channels * 4 if form.pointwise else 0
    assert static.arena <= -(-row // 8) * 8
    assert static.ram == static.input + static.output + static.arena
    assert static.code < 16 * 1024


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize("activation", ["gelu", "sigmoid", "tanh", "softmax", "log_softmax", "sparsemax", "glu"])
def test_activations(activation: str, target: str, tmp_path: Path) -> None:
    layer = read("SeparableConv2D", {**DS_CNN, "filters": 12, "activation": activation}, (None, 6, 5, 8), **K3)
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    program = Program(tmp_path, library(layer, get_target(target)), target)
    assert_close(program.run(x, batch=1).reshape(reference.shape), reference, bound)
    # A row, and the register tile in memory; along an axis it runs in the output's own memory, unless it halves it.
    assert program.static.arena <= 5 * 8 * 4 + 30 * 4 + (6 * 5 * 12 * 4 if activation == "glu" else 0)


def test_a_fixed_batch_needs_no_argument(tmp_path: Path) -> None:
    layer = with_integers(read("SeparableConv2D", {**DS_CNN, "filters": 6}, (3, 5, 4, 8)))
    x = np.concatenate([image(layer, integers=True, seed=seed)[:1] for seed in range(3)])
    reference, _ = expected(layer, x)
    program = Program(tmp_path, library(layer, get_target("cortex-m4")), "cortex-m4")
    assert program.static.input == x.nbytes
    np.testing.assert_array_equal(program.run(x, None).reshape(reference.shape), reference)


@pytest.mark.parametrize("last", [(), ("softmax",)], ids=str)
def test_a_second_input(last: tuple[str, ...], tmp_path: Path) -> None:
    layer = with_residual(read("SeparableConv2D", {**DS_CNN, "filters": 8}, (None, 6, 5, 8), **K3), *last)
    x, r = image(layer, integers=False), second(layer, 1)
    program = Program(tmp_path, library(layer, get_target("cortex-m4")), "cortex-m4")
    assert program.static.input == x.nbytes + r.nbytes
    buffers = [program.emulator.guarded(array.nbytes).write(array) for array in (x, r)]
    written = program.emulator.guarded(program.static.output)
    started, _ = program.start()
    places = (buffer.address for buffer in (*buffers, written))
    assert program.call("run", started.address, *places, 1) == 0
    reference = evaluate(layer.program, layer.weights, x, r)
    bound = error_bound(layer.program, layer.weights, x, EPS_FLOAT32, r)
    assert_close(written.read("float32").reshape(reference.shape), reference, bound)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        path = sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", output=tmp_path / name, cache=False).path
        contents.append({item.relative_to(path): item.read_bytes() for item in path.rglob("*") if item.is_file()})
    assert contents[0] == contents[1]


def test_a_ds_cnn_layer_is_as_small_as_it_should_be(tmp_path: Path) -> None:
    artifact = sepcompile.compile(SOURCE, SHAPE, target=["cortex-m4", "cortex-m7", "cortex-m33"], output=tmp_path / "a")
    for variant in sepcompile.inspect(artifact.path).variants:
        found = variant.c_api
        assert found is not None and variant.library == found.library
        sizes = sections(member((artifact.path / found.library).read_bytes()))
        assert sizes == {"code": found.code_bytes, "constants": found.constant_bytes, "data": found.data_bytes}
        weights = (9 * 64 + 64 * 64 + 64) * 4
        assert weights <= found.constant_bytes < weights + 64
        assert found.code_bytes < 16 * 1024
        assert found.flash_bytes == found.code_bytes + found.constant_bytes
        assert found.input_bytes == found.output_bytes == 25 * 5 * 64 * 4
        assert found.arena_bytes == 5 * 64 * 4
        assert found.ram_bytes == 2 * 32000 + 1280


def test_an_artifact_for_c_programs_only(tmp_path: Path) -> None:
    artifact = sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", output=tmp_path / "conv1")
    files = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
    assert files == {
        "CMakeLists.txt", "README.md", "cortex-m4/libconv1.a", "include/conv1.h", "manifest.json",
        "selftest.safetensors", "src/example.c", "weights.safetensors",
    }  # fmt: skip
    with pytest.raises(ArtifactError, match=r"cortex-m4 is for C programs.*cortex-m4/libconv1\.a"):
        sepcompile.load(artifact.path)
    report = sepcompile.verify(artifact.path)
    assert report.passed and report.variants[0].for_c and not report.variants[0].runs
    path = artifact.path / "cortex-m4" / "libconv1.a"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match="SHA-256"):
        sepcompile.verify(artifact.path)


def test_a_manifest_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    artifact = sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", output=tmp_path / "conv1")
    path = artifact.path / "manifest.json"
    document = json.loads(path.read_text())
    for change in ({"c_api": None}, {"arch": "x86_64"}, {"c_api": {**document["variants"][0]["c_api"], "more": 1}}):
        path.write_text(json.dumps({**document, "variants": [{**document["variants"][0], **change}]}))
        with pytest.raises(ArtifactError, match=next(iter(change))):
            sepcompile.inspect(artifact.path)


def test_budgets(tmp_path: Path) -> None:
    output = tmp_path / "conv1"
    with pytest.raises(BudgetError, match=r"conv1 for cortex-m4: needs 65280 bytes of RAM .*16128 more than ram=49152"):
        sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", ram="48K", output=output)
    with pytest.raises(BudgetError, match=r"cortex-m7: needs 2\d{4} bytes of flash \(code .* more than flash=16384"):
        sepcompile.compile(SOURCE, SHAPE, target=["cortex-m7"], flash=16384, output=output)
    for wrong in ("64X", 0, -1, "", 1.5, True, "0K"):
        with pytest.raises(ConfigError, match="ram="):
            sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", ram=wrong, output=output)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="flash=1048576"):
        sepcompile.compile(SOURCE, SHAPE, target="x86-64-v2", flash="1M", output=output)
    with pytest.raises(ConfigError, match="emit='c'"):
        sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", emit="c", output=output)
    with pytest.raises(TargetError, match="cuda-sm_90"):
        sepcompile.compile(SOURCE, SHAPE, target="cuda-sm_90", emit="c-api", output=output)
    assert not output.exists()
    sepcompile.compile(SOURCE, SHAPE, target="cortex-m4", ram=65280, flash="64k", output=output)
