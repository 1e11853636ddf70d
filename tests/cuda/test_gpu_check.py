"""What `make gpu-check` carries to a GPU, as far as that goes without one: packed, read back, run on the stand-in."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.codegen import cuda_lower
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.ir.reference import evaluate
from sepcompile.ir.rounding import round_to
from tests.cuda.emulator import library, standin_as_driver

ROOT = Path(__file__).resolve().parent.parent.parent
NO_TORCH, NO_GPU = "raise ImportError('none')", "class cuda:\n    is_available = staticmethod(lambda: False)"


def run(script: str, *arguments: object, torch: str = NO_TORCH, folder: Path | None = None) -> Any:
    """A script of benchmarks/ in a process of its own, with ``torch`` as the source of a stand-in for PyTorch."""
    environment = dict(os.environ)
    if folder is not None:
        (folder / "torch.py").write_text(torch)
        environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "packed"
    done = run("gpu_pack.py", folder, "--layers", "kws_dscnn", "--types", "bfloat16,tf32", "--no-grid")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 cases, 0.")
    return folder


def test_packed_layers_run_as_they_were_compiled(packed: Path, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("gpu_check", monkeypatch)
    cases = json.loads((packed / "cases.json").read_text())
    assert sorted(case["multiplied"] for case in cases) == ["bfloat16", "tf32"]
    for case in cases:
        layer, form, folded = module.read(case)
        check = module.Check(None, packed, [1], 1.0)
        for build in case["builds"]:
            source = cuda_lower.cuda_source(form, CudaSchedule.from_json(build["schedule"]), "layer")
            for path in build["images"].values():
                (packed / path).write_bytes(library(source))
            ours = check.layer(case, build, layer, form, folded)
            x = round_to(np.random.default_rng(1).standard_normal((1, *case["shape"])), case["dtype"])
            off = module.error(ours(x), evaluate(layer.program, layer.weights, x))
            assert off <= module.TOLERANCE[case["multiplied"]]


LAYER = ("SeparableConv2D", {"filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu"}, (5, 4, 16))


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/ as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_check_runs_on_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From packing to the table, with a stand-in for PyTorch: a machine that is lent for minutes must not stumble."""
    pack, check = script("gpu_pack", monkeypatch), script("gpu_check", monkeypatch)
    folder, results = tmp_path / "packed", tmp_path / "results"
    folder.mkdir()
    packer = pack._Packer(folder, "cuda-sm_90", 1)
    for kind in ("float32", "tf32", "float16", "bfloat16"):
        packer.add("grid", f"grid of {kind}", *LAYER, kind)
        packer.add("suite", "tiny", *LAYER, kind)
    (folder / "cases.json").write_text(json.dumps(packer.cases))
    for case in packer.cases:
        _, form, _ = check.read(case)
        for build in case["builds"]:
            source = cuda_lower.cuda_source(form, CudaSchedule.from_json(build["schedule"]), "layer")
            (folder / build["images"]["sm_90"]).write_bytes(library(source))
    fake = [str(ROOT / "tests" / "cuda" / "fake"), str(ROOT)]
    sanitizer = tmp_path / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.write_text("#!/bin/sh\necho '========= ERROR SUMMARY: 0 errors'\n")
    sanitizer.chmod(0o755)
    environment = {
        **os.environ, "PYTHONPATH": ":".join(fake), "LD_LIBRARY_PATH": str(standin_as_driver().parent),
        "PATH": f"{sanitizer.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), str(folder), str(results)]
    done = subprocess.run(
        [*command, "--batches", "1,2", "--compile", "tiny"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "correctness: 4 of 4 passed" in done.stdout
    for word in ("FAILED", "WRONG", "peer failed", "out of time"):
        assert word not in done.stdout
    report = json.loads((results / "gpu_check.json").read_text())
    assert [(row["dtype"], row["batch"]) for row in report["suite"]] == [
        (kind, batch) for kind in ("float32", "tf32", "float16", "bfloat16") for batch in (1, 2)
    ]
    assert all(set(row["peers"]) == {"torch", "torch.compile"} for row in report["suite"])
    assert all(bool(row["ours"]) == (row["batch"] == 1) for row in report["suite"])  # no schedule is chosen for 2
    table = (results / "gpu_check.md").read_text()
    assert "compute-sanitizer racecheck: ERROR SUMMARY: 0 errors" in table
    assert len([line for line in table.splitlines() if line.startswith("| tiny | ")]) == 8
    assert "| bfloat16 | 1 | 1 | 1.00 | 1.00 | 1.00 |" in table  # each takes a millisecond on the stand-in


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "int8"], ["--only", "int8", "tf32"]),
        (["--batches", "1,x"], ["--batches", "'1,x'"]),
        (["--batches", "0"], ["--batches"]),
    ],
)
def test_arguments_are_checked_before_anything_runs(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = run("gpu_check.py", tmp_path, tmp_path / "results", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_folder_that_was_not_packed_is_named(tmp_path: Path) -> None:
    done = run("gpu_check.py", tmp_path, tmp_path / "results", folder=tmp_path)
    assert done.returncode == 2
    assert "cases.json" in done.stderr and "gpu_pack.py" in done.stderr


@pytest.mark.parametrize(("torch", "word"), [(NO_TORCH, "no PyTorch"), (NO_GPU, "no GPU")])
def test_a_machine_without_a_gpu_is_told_so(torch: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text("[]")
    done = run("gpu_check.py", tmp_path, tmp_path / "results", torch=torch, folder=tmp_path)
    assert done.returncode == 1
    assert word in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_unknown_layers_and_types_are_named(tmp_path: Path) -> None:
    for option, value in (("--layers", "nope"), ("--types", "int8")):
        done = run("gpu_pack.py", tmp_path / "new", option, value)
        assert done.returncode == 2
        assert value in done.stderr and not (tmp_path / "new").exists()
