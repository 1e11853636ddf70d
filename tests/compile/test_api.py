"""``sepcompile.compile`` as a user calls it: targets, batches, determinism, crashes and kills."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sepcompile
from sepcompile.codegen.cache import CompileCache
from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import Worker
from sepcompile.errors import (
    ArtifactError,
    CompileError,
    ConfigError,
    ScheduleError,
    TargetError,
    TuningError,
    UnsupportedError,
)
from sepcompile.targets import get_target
from tests.compile.cases import read, runnable_targets, with_integers

CONFIG = {"name": "conv1", "filters": 24, "kernel_size": 3, "padding": "same", "activation": "relu6"}
SOURCE = {"class_name": "SeparableConv2D", "config": CONFIG}
SHAPE = (None, 10, 11, 20)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_artifact_for_several_targets(tmp_path: Path) -> None:
    names = [target.name for target in runnable_targets()]
    layer = with_integers(read("SeparableConv2D", CONFIG, SHAPE))
    artifact = sepcompile.compile(SOURCE, SHAPE, target=names, weights=layer.weights, output=tmp_path / "conv1")
    x = np.random.default_rng(0).integers(-3, 4, (3, *SHAPE[1:])).astype(np.float32)
    best = sepcompile.load(artifact.path)
    assert best.variant == max(runnable_targets(), key=lambda target: len(target.requires)).name
    for name in names:
        np.testing.assert_array_equal(sepcompile.load(artifact.path, variant=name)(x), best(x))
    assert sepcompile.verify(artifact.path).passed


@pytest.mark.parametrize("batch", [None, 4])
def test_batches(batch: int | None, tmp_path: Path) -> None:
    artifact = sepcompile.compile(SOURCE, (batch, *SHAPE[1:]), output=tmp_path / "conv1")
    layer = artifact.load()
    x = np.random.default_rng(0).standard_normal((4, *SHAPE[1:])).astype(np.float32)
    y = layer(x)
    if batch is None:
        for size in (0, 1, 3):
            np.testing.assert_array_equal(layer(x[:size]), y[:size])
    else:
        with pytest.raises(sepcompile.SepcompileError, match="4"):
            layer(x[:3])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    code = "import sys, sepcompile; sepcompile.compile(" + f"{SOURCE!r}, {SHAPE!r}, output=sys.argv[1], cache=False)"
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_drawn_weights_are_said(tmp_path: Path) -> None:
    artifact = sepcompile.compile(SOURCE, SHAPE, output=tmp_path / "conv1")
    assert artifact.weights_drawn and "drawn" in " ".join(artifact.notes)
    assert sepcompile.inspect(artifact.path).weights_drawn is True


def test_a_cached_compile_gives_the_same_artifact(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sepcompile.compile(SOURCE, SHAPE, output=tmp_path / name, cache=tmp_path / "cache")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert (tmp_path / "cache" / "kernels.sqlite3").stat().st_size > 0


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "kernels.sqlite3").write_bytes(b"not a database" * 500)
    artifact = sepcompile.compile(SOURCE, SHAPE, output=tmp_path / "conv1", cache=tmp_path)
    assert sepcompile.verify(artifact.path).passed


def test_the_cache_compares_the_whole_key(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "kernels.sqlite3")
    with Worker() as worker:
        layer = read("SeparableConv2D", CONFIG, SHAPE)
        first = compile_variant(
            layer.program, layer.weights, runnable_targets()[0], symbol="a", worker=worker, cache=cache
        )
    from sepcompile.codegen.plan import CompiledKernels

    kept = CompiledKernels(first.plan, first.object_code)
    cache.put("key", kept)
    assert cache.get("key") == kept
    assert cache.get("key ") is None


def test_a_crash_of_the_compiler_is_a_typed_error() -> None:
    target = get_target("x86-64-v3")
    broken = dataclasses.replace(target, tvm={**target.tvm, "mtriple": "no-such-machine"})
    layer = read("SeparableConv2D", CONFIG, SHAPE)
    with Worker() as worker:
        with pytest.raises(CompileError):
            compile_variant(layer.program, layer.weights, broken, symbol="layer", worker=worker)
        assert compile_variant(layer.program, layer.weights, target, symbol="layer", worker=worker).object_code


def test_a_compile_that_hangs_is_a_typed_error() -> None:
    layer = read("SeparableConv2D", CONFIG, SHAPE)
    with Worker(timeout_s=0.01) as worker, pytest.raises(CompileError, match="took over"):
        compile_variant(layer.program, layer.weights, get_target("x86-64-v3"), symbol="layer", worker=worker)


@pytest.mark.parametrize("delay", [0.3, 0.9, 1.3, 1.6, 1.9, 2.3])
def test_a_killed_compile_leaves_nothing_half_written(delay: float, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = f"{SOURCE!r}, {SHAPE!r}, output={str(folder / 'conv1')!r}, cache=False"
    code = f"import sepcompile; sepcompile.compile({arguments})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if (folder / "conv1").exists():
        assert sepcompile.verify(folder / "conv1").passed
    sepcompile.compile(SOURCE, SHAPE, output=folder / "conv1")
    assert [path.name for path in folder.iterdir()] == ["conv1"]
    assert sepcompile.verify(folder / "conv1").passed


def test_bad_arguments_are_typed_errors(tmp_path: Path) -> None:
    output = tmp_path / "conv1"
    with pytest.raises(TargetError, match="cortex-z9"):
        sepcompile.compile(SOURCE, SHAPE, target="cortex-z9", output=output)
    with pytest.raises(TargetError, match="target"):
        sepcompile.compile(SOURCE, SHAPE, target=[], output=output)
    with pytest.raises(UnsupportedError, match="int8"):
        sepcompile.compile(SOURCE, SHAPE, precision="int8", output=output)
    record = dataclasses.replace(_heuristic(), tile_pixels=99)
    with pytest.raises(ScheduleError, match="tile_pixels=99"):
        sepcompile.compile(SOURCE, SHAPE, schedule=record, output=output)
    assert not output.exists()


@pytest.mark.parametrize(
    "arguments,error",
    [
        ({"output": 3}, ArtifactError),
        ({"output": b"conv1"}, ArtifactError),
        ({"output": "a\0b"}, ArtifactError),
        ({"schedule": {}}, ScheduleError),
        ({"schedule": "fast"}, ScheduleError),
        ({"cache": None}, ConfigError),
        ({"cache": 3}, ConfigError),
        ({"database": None}, ConfigError),
        ({"database": 3}, ConfigError),
    ],
)
def test_arguments_of_another_type(arguments: dict[str, object], error: type[Exception], tmp_path: Path) -> None:
    (name,) = arguments
    with pytest.raises(error, match=f"{name}="):
        sepcompile.compile(SOURCE, SHAPE, **{"output": tmp_path / "conv1", **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name,value,error",
    [
        *(("trials", value, TuningError) for value in ("a", 0, 1.5, True)),
        *(("threads", value, TuningError) for value in ("2", 0)),
        *(("seed", value, TuningError) for value in (-1, "x")),
        ("runner", 3, TuningError),
        ("cache", 3, ConfigError),
    ],
)
def test_arguments_of_a_search(name: str, value: object, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=f"{name}="):
        sepcompile.tune(SOURCE, SHAPE, database=tmp_path / "tuning.sqlite3", **{name: value})
    assert not list(tmp_path.iterdir())


def _heuristic() -> sepcompile.Schedule:
    from sepcompile.codegen.variant import read_program
    from sepcompile.schedule import choose

    layer = read("SeparableConv2D", CONFIG, SHAPE)
    return choose(read_program(layer.program, layer.weights)[0], get_target("native"))


def test_a_given_schedule_is_used_and_recorded(tmp_path: Path) -> None:
    record = dataclasses.replace(_heuristic(), tile_columns=2)
    assert sepcompile.Schedule.from_json(record.to_json()) == record
    artifact = sepcompile.compile(SOURCE, SHAPE, schedule=record, output=tmp_path / "conv1")
    variant = json.loads((artifact.path / "manifest.json").read_text())["variants"][0]
    assert variant["schedule"] == record.to_json() and variant["schedule_source"] == "given"


@pytest.mark.parametrize("change", [{"lanes": 3}, {"order": "sideways"}, {"rows": True}, {"speed": 1}])
def test_a_wrong_record_names_the_knob(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match=next(iter(change))):
        record = sepcompile.Schedule.from_json({**_heuristic().to_json(), **change})
        sepcompile.compile(SOURCE, SHAPE, schedule=record, output=tmp_path / "conv1")
