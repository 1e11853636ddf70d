"""The command line of static libraries, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = {
    "class_name": "SeparableConv2D",
    "config": {"name": "conv1", "filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"},
}
ENTRY = "from sepcompile.cli import main; main()"
COMPILE = ["compile", "layer.json", "--input-shape", "None,6,5,4", "-o", "out"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "layer.json").write_text(json.dumps(LAYER))
    return tmp_path


def cli(folder: Path, *arguments: str, status: int = 0) -> str:
    """Standard output, or standard error where the command is to fail."""
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, *arguments], cwd=folder, text=True, capture_output=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def test_a_microcontroller(folder: Path) -> None:
    printed = cli(folder, *COMPILE, "--target", "cortex-m4", "--ram", "2K", "--flash", "16K")
    (variant,) = json.loads((folder / "out" / "manifest.json").read_text())["variants"]
    sizes = variant["c_api"]
    assert f"flash  {sizes['flash_bytes']} bytes: code {sizes['code_bytes']}, weights" in printed
    assert f"RAM    {sizes['ram_bytes']} bytes: input 480, output 960, arena {sizes['arena_bytes']}" in printed
    assert "next: link out/cortex-m4/libconv1.a" in printed
    assert "passed" in cli(folder, "verify", "out") and "static" in cli(folder, "inspect", "out")
    assert "C programs" in cli(folder, "run", "out", status=2)


def test_beside_a_loader(folder: Path) -> None:
    answer = json.loads(cli(folder, *COMPILE, "--target", "x86-64-v2,cortex-m7", "--emit", "c-api", "--json"))
    for variant in answer["variants"]:
        assert variant["c_api"]["ram_bytes"] == 480 + 960 + variant["c_api"]["arena_bytes"]
    assert (folder / "out" / "x86-64-v2" / "libconv1.so").is_file()
    assert "x86-64-v2" in cli(folder, "run", "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "cortex-m4", "--ram", "1K"], "bytes of RAM"),
        (["--target", "cortex-m4", "--flash", "512"], "bytes of flash"),
        (["--target", "cortex-m4", "--ram", "lots"], "ram='lots'"),
        (["--target", "x86-64-v2", "--ram", "64K"], "--emit c-api"),
        (["--target", "cuda-sm_90", "--emit", "c-api"], "cuda-sm_90"),
        (["--emit", "rust"], "rust"),
    ],
)
def test_refusals(arguments: list[str], words: str, folder: Path) -> None:
    assert words in cli(folder, *COMPILE, *arguments, status=2)
    assert not (folder / "out").exists()
