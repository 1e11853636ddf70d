"""Blocks with a second input that is added in the epilogue: kernels, loader, self-test, and what is refused."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import sepcompile
from sepcompile import api
from sepcompile.cli.commands.run import command as run_command
from sepcompile.compute.record import Schedule
from sepcompile.errors import ArtifactError, ConfigError, InputError
from sepcompile.frontend import ImportedLayer
from sepcompile.ir import activations
from sepcompile.ir.passes import canonicalize
from sepcompile.ir.reference import EPS_FLOAT16, EPS_FLOAT32, error_bound, evaluate
from sepcompile.ir.stages import Residual
from sepcompile.ir.verify import verify
from tests.compile.cases import assert_close, form_of, image, random_record, read, runnable_targets, with_integers

CASES: list[tuple[str, dict[str, Any], tuple[int | None, ...]]] = [
    ("SeparableConv2D", {"filters": 24, "kernel_size": 3, "padding": "same"}, (None, 14, 13, 24)),
    ("SeparableConv2D", {"filters": 37, "kernel_size": 3, "strides": 2, "activation": "relu6"}, (None, 11, 12, 5)),
    ("SeparableConv2D", {"filters": 20, "kernel_size": 3, "activation": "gelu"}, (2, 9, 8, 3)),
    ("SeparableConv1D", {"filters": 19, "kernel_size": 5, "padding": "same"}, (None, 40, 12)),
    ("DepthwiseConv2D", {"kernel_size": 5, "padding": "same", "depth_multiplier": 2}, (None, 9, 7, 11)),
    ("DepthwiseConv1D", {"kernel_size": 3, "use_bias": False}, (None, 33, 40)),
    ("SeparableConv2D", {"filters": 16, "kernel_size": 3, "dtype": "float16", "padding": "same"}, (None, 6, 6, 16)),
]


def with_residual(layer: ImportedLayer, *last: str) -> ImportedLayer:
    """The layer with a second input, and activations of the sum."""
    stages = [*layer.program.stages, Residual()]
    for kind in last:
        axis = 3 if activations.KINDS[kind].is_rowwise else None
        stages.append(activations.make(kind, axis=axis))
    program = canonicalize(layer.program.with_stages(tuple(stages)))
    return dataclasses.replace(layer, program=program)


def second(layer: ImportedLayer, batch: int, integers: bool = False) -> np.ndarray:
    """A residual."""
    rng = np.random.default_rng(7)
    spec = layer.program.output
    shape = (batch, *spec.shape[1:])
    return (rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)).astype(spec.dtype)


def built(layer: ImportedLayer, folder: Path, schedule: Schedule | None = None, target: str = "native") -> Any:
    """The artifact's layer."""
    artifact = api.write_layer(layer, api.find_targets(target), schedule, folder / "artifact", folder / "cache", False)
    return sepcompile.load(artifact.path, selftest=True)


@pytest.mark.parametrize("last", [(), ("relu",), ("silu",), ("softmax",)])
@pytest.mark.parametrize(("name", "config", "shape"), CASES)
def test_adds(
    name: str, config: dict[str, Any], shape: tuple[int | None, ...], last: tuple[str, ...], tmp_path: Path
) -> None:
    layer = with_residual(read(name, config, shape), *last)
    x = np.concatenate([image(layer, integers=False, seed=seed) for seed in range(layer.program.batch or 3)])
    r = second(layer, len(x))
    reference = evaluate(layer.program, layer.weights, x, r)
    eps = EPS_FLOAT16 if r.dtype == np.float16 else EPS_FLOAT32
    bound = error_bound(layer.program, layer.weights, x, eps, r)
    compiled = built(layer, tmp_path)
    y = compiled(x, r)
    assert_close(y, reference, bound)
    np.testing.assert_array_equal(compiled([x, r]), y)
    out = np.empty_like(y)
    assert compiled(x, r, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("number", range(12))
def test_exact_on_every_schedule(number: int, tmp_path: Path) -> None:
    """Integer values: bit for bit, on any record, threads or not."""
    rng = random.Random(number)
    name, config, shape = CASES[number % 6]
    config = {**config, "activation": "relu"}
    layer = with_integers(with_residual(read(name, config, shape), *rng.choice([(), ("relu",)])))
    target = rng.choice(runnable_targets())
    record = random_record(form_of(layer), target.machine, rng)
    compiled = built(layer, tmp_path, record, target.name)
    x = np.concatenate([image(layer, integers=True, seed=seed) for seed in range(layer.program.batch or 5)])
    r = second(layer, len(x), integers=True)
    reference = evaluate(layer.program, layer.weights, x, r)
    np.testing.assert_array_equal(compiled(x, r), reference)
    single = sepcompile.load(tmp_path / "artifact", threads=1)
    np.testing.assert_array_equal(single([x, r]), reference)  # type: ignore[arg-type]


def test_refuses(tmp_path: Path) -> None:
    layer = with_residual(read(*CASES[0]))
    compiled = built(layer, tmp_path)
    x, r = compiled.random_inputs(2)
    assert compiled.takes_residual
    y = compiled(x, r)
    for arguments, words in [
        ((x,), "residual is missing"),
        (([x],), "a list of 1"),
        ((x, r[:1]), "residual has shape"),
        ((x, r[..., :3]), "residual has shape"),
        ((x, r.astype(int)), "residual has dtype"),
        ((x, r, r), "overlaps residual"),
        ((x, r, x), "out"),
    ]:
        with pytest.raises(InputError, match=words):
            compiled(*arguments)
    np.testing.assert_array_equal(compiled(x, np.asfortranarray(r).astype(np.float64)), y)
    assert compiled(x[:0], r[:0]).shape == (0, *y.shape[1:])
    assert sepcompile.verify(tmp_path / "artifact").passed
    assert compiled.benchmark(seconds=0.01).calls >= 5
    assert sepcompile.inspect(tmp_path / "artifact").residual.shape == (None, 14, 13, 24)  # type: ignore[union-attr]


def test_a_manifest_that_disagrees(tmp_path: Path) -> None:
    """A manifest that forgets the second input, or has it of another shape, is refused before anything runs."""
    built(with_residual(read(*CASES[0])), tmp_path)
    path = tmp_path / "artifact" / "manifest.json"
    text = path.read_text()
    narrow = text.replace('"residual": {\n  "dtype": "float32"', '"residual": {\n  "dtype": "float16"')
    for changed in (text.replace('"residual"', '"remark"'), narrow):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ArtifactError):
            sepcompile.load(tmp_path / "artifact")


def test_programs_that_make_no_sense() -> None:
    program = read(*CASES[0]).program
    with pytest.raises(ConfigError, match="at most one"):
        verify(program.with_stages((*program.stages, Residual(), Residual())))
    with pytest.raises(ConfigError, match="Residual adds to"):
        verify(with_residual(read(*CASES[1])).program.with_stages((Residual(), *read(*CASES[1]).program.stages)))
    first = read("SeparableConv2D", {"filters": 4, "kernel_size": 1, "data_format": "channels_first"}, (None, 4, 4, 4))
    with pytest.raises(ConfigError, match="channels_last"):
        verify(first.program.with_stages((*first.program.stages[:-1], Residual(), first.program.stages[-1])))
    with pytest.raises(InputError, match="needs a residual"):
        evaluate(with_residual(read(*CASES[0])).program, {}, np.zeros((1, 14, 13, 24)))
    with pytest.raises(InputError, match="has one input"):
        evaluate(program, {}, np.zeros((1, 14, 13, 24)), np.zeros((1, 14, 13, 24)))


def test_run_and_the_example(tmp_path: Path) -> None:
    """``sepcompile run`` with both inputs, and the artifact's C example as it is."""
    built(with_residual(read(*CASES[0])), tmp_path)
    folder = tmp_path / "artifact"
    x, r = sepcompile.load(folder).random_inputs(2)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "r.npy", r)
    files = ["--input", str(tmp_path / "x.npy"), "--residual", str(tmp_path / "r.npy")]
    done = CliRunner().invoke(run_command, [str(folder), *files, "--output", str(tmp_path / "y.npy"), "--repeat", "2"])
    assert done.exit_code == 0, done.output
    call: Any = sepcompile.load(folder)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), call(x, r))
    assert CliRunner().invoke(run_command, [str(folder), "--batch", "3"]).exit_code == 0
    assert "_run_residual(&layer, x, residual, y, 1)" in (folder / "src" / "example.c").read_text()
    assert "_run_residual(const " in next((folder / "include").glob("*.h")).read_text()
    assert "layer(x, residual)" in (folder / "README.md").read_text()
