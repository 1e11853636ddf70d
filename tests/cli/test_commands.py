"""Every command on good input."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import sepcompile
from sepcompile.cli import commands

COMMANDS = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
SHAPE = "None,6,5,4"


def out(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cli, command):
    text = out(cli(command, "--help"))
    assert "Usage: sepcompile" in text
    assert re.search(rf"Example:\n +sepcompile {command}\b", text)
    assert "--json" in text


def test_group_help(cli):
    text = out(cli())
    assert text == out(cli("--help"))
    for command in COMMANDS:
        assert re.search(rf"\n  {command} +\S", text)
    assert "..." not in text.partition("Commands:")[2]
    assert out(cli("--version")).split() == ["sepcompile", sepcompile.__version__]


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sepcompile", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sepcompile", sepcompile.__version__]


def test_compile_run_verify_inspect(cli, tmp_path):
    text = out(cli("compile", "layer.json", "--input-shape", SHAPE))
    assert text.startswith("compiled conv1 to build/conv1 in ")
    assert "drawn with seed 0" in text
    x = np.random.default_rng(1).standard_normal((2, 6, 5, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert "(2,6,5,8)" in out(cli("run", "build/conv1", "--input", "x.npy", "--output", "y", "--threads", 1))
    expected = sepcompile.load(tmp_path / "build/conv1")(x)
    np.testing.assert_array_equal(np.load(tmp_path / "y"), expected)  # the name as given, without an added .npy
    assert out(cli("verify", "build/conv1")).startswith("build/conv1: passed (")
    text = out(cli("inspect", "build/conv1"))
    assert "drawn from the initializers" in text and "heuristic" in text
    assert "depthwise(" in out(cli("inspect", "build/conv1/manifest.json", "--ir"))


def test_compile_json_and_options(cli, tmp_path):
    weights = {
        "depthwise_kernel": np.ones((3, 3, 4, 1), np.float32),
        "pointwise_kernel": np.ones((1, 1, 4, 8), np.float32),
        "bias": np.zeros(8, np.float32),
    }
    np.savez(tmp_path / "w.npz", **weights)
    arguments = ("--input-shape", "(1, 6, 5, 4)", "--weights", "w.npz", "--target", "x86-64-v2,x86-64-v3")
    more = ("--target", "x86-64-v2", "--output", "a b", "--keras-version", "3.15", "--no-cache")
    report = json.loads(out(cli("compile", "layer.json", *arguments, *more, "--json")))
    assert sorted(report["targets"]) == ["x86-64-v2", "x86-64-v3"]
    assert report["path"] == str(tmp_path / "a b")
    assert report["input"] == {"shape": [1, 6, 5, 4], "dtype": "float32"}
    assert not report["weights_drawn"]
    (tmp_path / "s.json").write_text(json.dumps(report["variants"][0]["schedule"]))
    again = cli("compile", "layer.json", *arguments[:-2], "--schedule", "s.json", "--json", "--target", "x86-64-v3")
    (variant,) = json.loads(out(again))["variants"]
    assert variant["schedule"] == report["variants"][0]["schedule"]
    assert variant["schedule_source"] != report["variants"][0]["schedule_source"]


def test_layer_from_stdin_and_inline(cli, tmp_path):
    text = (tmp_path / "layer.json").read_text()
    piped = json.loads(out(cli("compile", "-", "--input-shape", SHAPE, "--json", "--output", "a", stdin=text)))
    inline = json.loads(out(cli("compile", text, "--input-shape", SHAPE, "--json", "--output", "b")))
    assert piped["name"] == inline["name"] == "conv1"
    library = piped["variants"][0]["library"]
    assert (tmp_path / "a" / library).read_bytes() == (tmp_path / "b" / library).read_bytes()


def test_seed_decides_the_drawn_weights(cli, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out(cli("compile", "layer.json", "--input-shape", SHAPE, "--seed", seed, "--output", name))
    a, b, c = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_run_random_input_and_timing(cli, conv1):
    report = json.loads(out(cli("run", conv1, "--batch", 3, "--repeat", 7, "--json")))
    assert report["input"]["shape"] == [3, 6, 5, 4]
    assert report["benchmark"]["calls"] == 7
    assert 0 < report["benchmark"]["best"] <= report["benchmark"]["median"]
    assert " per call (median of " in out(cli("run", conv1, "--benchmark", "--threads", 1))
    empty = json.loads(out(cli("run", conv1, "--batch", 0, "--json")))
    assert empty["output"]["shape"] == [0, 6, 5, 8]
    assert empty["min"] is None


def test_inspect_layer(cli):
    shape = ("--input-shape", SHAPE)
    text = out(cli("inspect", "layer.json", *shape))
    assert "pointwise_kernel (4,8)" in text and "program conv1(" in text
    assert out(cli("inspect", "layer.json", *shape, "--ir")).startswith("program conv1(")
    report = json.loads(out(cli("inspect", "layer.json", *shape, "--tir", "--asm", "--json", "--target", "x86-64-v3")))
    assert "prim_func" in report["tir"] and "ymm" in report["asm"]
    assert "pad(" in report["ir"]
    alone = out(cli("inspect", "layer.json", *shape, "--asm", "--target", "x86-64-v3"))
    assert alone.rstrip("\n") == report["asm"].rstrip("\n")


def test_inspect_artifact_as_json_is_its_manifest(cli, conv1):
    manifest = json.loads((conv1 / "manifest.json").read_bytes())
    assert json.loads(out(cli("inspect", conv1, "--json"))) == manifest | {"path": str(conv1)}


def test_targets(cli):
    text = out(cli("targets"))
    names = [target.name for target in sepcompile.list_targets()]
    assert [line.split()[0] for line in text.splitlines()[1:]] == names
    listed = json.loads(out(cli("targets", "--json")))
    assert [target["name"] for target in listed] == names
    native = [target["name"] for target in listed if target["native"]]
    shown = json.loads(out(cli("targets", "native", "--json")))
    assert native == [shown["name"]] and shown["runs_here"]
    assert f"name         {native[0]}" in out(cli("targets", native[0]))


def test_verify_several(cli, conv1, tmp_path):
    shutil.copytree(conv1, tmp_path / "broken")
    with (tmp_path / "broken/weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x77")
    done = cli("verify", conv1, "broken", "--json")
    assert done.returncode == 1
    good, bad = json.loads(done.stdout)
    assert good["passed"] and good["variants"][0]["result"] == "passed"
    assert not bad["passed"] and "weights.safetensors" in bad["error"]
    done = cli("verify", conv1, "broken")
    assert done.returncode == 1
    assert f"{conv1}: passed" in done.stdout and "broken: FAILED: " in done.stdout
    assert done.stderr.splitlines() == [f"[1/2] {conv1}", "[2/2] broken"]


def test_demo(cli, tmp_path):
    done = cli("demo", "--network", "keyword_spotting", "--threads", 1)
    text = out(done)
    assert text.count("passed") == 4 and "FAILED" not in text
    commands = text.partition("What to type next:\n")[2].splitlines()
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program and out(cli(*arguments))
    assert done.stderr.splitlines()[0] == "[1/4] keyword_spotting ds_block_1"
    again = json.loads(out(cli("demo", "--network", "keyword_spotting", "--json")))
    assert [row["passed"] for row in again] == [True] * 4
    assert all(row["library_bytes"] < 65536 for row in again)
    assert out(cli("verify", tmp_path / "build/demo/keyword_spotting/ds_block_4"))


def test_demo_networks():
    """What the demonstration claims to be."""
    from sepcompile import demo

    assert demo.names() == ["keyword_spotting", "mobilenet"]
    blocks = demo.network("mobilenet").layers
    shapes = [tuple(block["build_config"]["input_shape"][1:]) for block in blocks]
    filters = [block["config"]["filters"] for block in blocks]
    assert len(blocks) == 13 and shapes[0] == (112, 112, 32) and shapes[-1] == (7, 7, 1024)
    assert [shape[2] for shape in shapes[1:]] == filters[:-1]
