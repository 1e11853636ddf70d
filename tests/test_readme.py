"""README.md and docs/: the commands and the code run as they are written, the generated parts are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sepcompile

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_start(tmp_path):
    quickstart = script("quickstart")
    text = quickstart.README.read_text(encoding="utf-8")
    new = quickstart.fill(text, tmp_path)
    assert quickstart.skeleton(new) == quickstart.skeleton(text), "run `make docs`"


def test_the_comparison_of_outputs_sees_words():
    skeleton = script("quickstart").skeleton
    assert skeleton("a 1.5 us (x86-64-v4)  b") == skeleton("a 22 ms (x86-64-v3) b")
    assert skeleton("conv1: passed") != skeleton("conv1: FAILED")
    assert skeleton("conv1: passed") != skeleton("conv2: passed")


@pytest.mark.parametrize("file", ["README.md", "docs/errors.md"])
def test_generated_parts(file):
    assert script("make_tables").filled(file) == (ROOT / file).read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_commands():
    commands = re.findall(r"^make [a-z-]+", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["make demo", "make test"]
    for command in [*commands, "make lint", "make test-slow", "make docs", "make clean", "make help"]:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("python", ["missing-python", "./old-python"])
def test_make_says_which_python_it_needs(tmp_path, python):
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "sepcompile needs Python 3.11 or newer: make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_target_file_of_the_guide(tmp_path):
    guide = (ROOT / "docs/targets.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    path = tmp_path / "my-board.toml"
    path.write_text(text)
    layer = {"class_name": "SeparableConv2D", "config": {"name": "conv", "filters": 8, "kernel_size": 3}}
    artifact = sepcompile.compile(layer, (None, 8, 8, 4), target=path, output=tmp_path / "conv")
    assert artifact.targets == ("my-board",)
    features = tomllib.loads(text)["requires"]["features"]
    assert sorted(features) == sorted(sepcompile.inspect(artifact.path).variants[0].requires)
    names = {target.name for target in sepcompile.list_targets()}
    assert names == set(re.findall(r"^\| `([^`]+)` \|", guide, re.MULTILINE))


def test_artifact_guide_lists_its_files_and_keys(tmp_path):
    guide = (ROOT / "docs/artifact.md").read_text(encoding="utf-8")
    layer = {"class_name": "SeparableConv2D", "config": {"name": "conv1", "filters": 8, "kernel_size": 3}}
    artifact = sepcompile.compile(layer, (None, 8, 8, 4), output=tmp_path / "conv1", target="x86-64-v4")
    tree = guide.split("```text\n")[1].split("```")[0]
    for entry in artifact.path.iterdir():
        assert entry.name in tree, entry
    for key in json.loads((artifact.path / "manifest.json").read_bytes()):
        assert f"`{key}`" in guide, key


def test_no_page_has_an_error_that_does_not_exist(tmp_path):
    """The example of docs/errors.md is what a user sees."""
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    config = {"name": "conv1", "filters": 8, "kernel_size": 3, "padding": "sane"}
    (tmp_path / "layer.json").write_text(json.dumps({"class_name": "SeparableConv2D", "config": config}))
    code = "import sepcompile; sepcompile.compile('layer.json', (None, 8, 8, 4))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    message = done.stderr.strip().splitlines()[-1].removeprefix("sepcompile.errors.ConfigError: ")
    assert message in text
