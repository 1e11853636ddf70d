"""The pack for devices without a compiler: packed here for this machine, run in a process that has NumPy alone."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYER = {
    "name": "small", "class_name": "SeparableConv2D", "input_shape": [1, 8, 8, 16],
    "config": {"filters": 16, "kernel_size": 3, "padding": "same", "activation": "relu"},
}  # fmt: skip
# Whatever compiles must not be importable on a device.
BLOCK = """
import runpy, sys
compilers = ("tvm", "tvm_ffi", "jinja2", "safetensors", "click", "rich", "ziglang", "platformdirs")
sys.modules.update(dict.fromkeys(compilers))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def pack(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps({"layers": [LAYER]}))
    command = [sys.executable, str(ROOT / "benchmarks/pi_pack.py"), str(tmp_path / "out/pi.tar.gz"), *arguments]
    return subprocess.run([*command, "--suite", str(suite)], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="packs a variant for x86")
def test_a_pack_runs_with_numpy_alone(tmp_path: Path) -> None:
    packed = pack(tmp_path, "--target", "x86-64-v2,cortex-a72")
    assert packed.returncode == 0, packed.stderr
    with tarfile.open(tmp_path / "out/pi.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    results = tmp_path / "results.json"
    runner = [str(tmp_path / "pi/pi_bench.py"), "--no-litert", "--rounds", "1", "--output", str(results)]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, *runner], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "small" in done.stdout and "sepcompile" in done.stdout
    report = json.loads(results.read_text())
    (result,) = report["results"]
    assert result["status"] == "ok" and result["error"] < 2e-5 and result["min_us"] > 0
    assert report["options"]["target"] == "x86-64-v2,cortex-a72"


def test_an_unknown_target_is_named_before_anything_is_packed(tmp_path: Path) -> None:
    packed = pack(tmp_path, "--target", "cortex-z9")
    assert packed.returncode == 1 and "error: target='cortex-z9' is unknown" in packed.stderr
    assert "Traceback" not in packed.stderr and not (tmp_path / "out").exists()
