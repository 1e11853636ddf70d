"""Artifacts where the C library is musl: in a C program that maps the library, and in a Python with NumPy.

The program needs musl's loader (Debian's package musl); the Python is made by tests/musl/make_python.sh. Without them
these tests are skipped.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sepcompile
from sepcompile.targets import native
from tests.arm.test_loader import GUEST, LAYERS, _keras_weights
from tests.c_api.support import run_zig
from tests.compile.cases import expected, image, read, with_integers

MUSL = Path(f"/lib/ld-musl-{platform.machine()}.so.1")
MADE = Path(__file__).resolve().parents[2] / "build" / "musl"
PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "fused.h"
static float x[IMAGES * FUSED_X_SIZE], y[IMAGES * FUSED_Y_SIZE];
static unsigned char weights[1 << 20];
int main(int argc, char **argv) {
    fused_layer layer;
    void *library = argc == 4 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) return puts(argc == 4 ? dlerror() : "arguments"), 1;
    __typeof__(&fused_init) init = (__typeof__(&fused_init))dlsym(library, "fused_init");
    __typeof__(&fused_run) run = (__typeof__(&fused_run))dlsym(library, "fused_run");
    __typeof__(&fused_arena_bytes) bytes = (__typeof__(&fused_arena_bytes))dlsym(library, "fused_arena_bytes");
    FILE *file = fopen(argv[2], "rb"), *input = fopen(argv[3], "rb");
    if (!init || !run || !bytes || !file || !input) return puts("a function or a file is missing"), 1;
    if (fread(weights, 1, sizeof weights, file) == sizeof weights || fread(x, sizeof x, 1, input) != 1) return 2;
    if (init(&layer, weights, OFFSETS, malloc(bytes(1)), bytes(1), NULL, 1) || run(&layer, x, y, IMAGES)) return 3;
    return fwrite(y, sizeof y, 1, stdout) != 1;
}
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one artifact per layer, an input of three images for each, and what comes out of it."""
    folder = tmp_path_factory.mktemp("artifacts")
    for name, (kind, config, shape) in LAYERS.items():
        layer = with_integers(read(kind, {**config, "name": name}, (None, *shape), keras_version="3.15"))
        sepcompile.compile(
            {"class_name": kind, "config": {**config, "name": name}}, (None, *shape), (native().name, "riscv64"),
            _keras_weights(layer), "3.15", output=folder / name, cache=False,
        )  # fmt: skip
        x = np.concatenate([image(layer, integers=True, seed=seed) for seed in range(3)])
        np.save(folder / f"{name}.x.npy", x)
        np.save(folder / f"{name}.expected.npy", expected(layer, x)[0])
    return folder


@pytest.mark.skipif(not MUSL.exists(), reason=f"no {MUSL} (Debian's package musl)")
def test_a_c_program_on_musl(artifacts: Path, tmp_path: Path) -> None:
    x, y = (np.load(artifacts / f"fused.{what}.npy") for what in ("x", "expected"))
    (tmp_path / "x.bin").write_bytes(x.tobytes())
    (tmp_path / "program.c").write_text(PROGRAM)
    target = native().name
    offsets = f"fused_weights_{target.replace('-', '_')}"
    flags = [f"-DIMAGES={len(x)}", f"-DOFFSETS={offsets}", f"-I{artifacts / 'fused' / 'include'}", "-O1", "-dynamic"]
    triple = f"{platform.machine()}-linux-musl"
    run_zig(tmp_path, "cc", "-target", triple, *flags, "program.c", "-o", "program")
    library, weights = artifacts / "fused" / target / "libfused.so", artifacts / "fused" / "weights.safetensors"
    command = [MUSL, tmp_path / "program", library, weights, tmp_path / "x.bin"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[:500] + done.stderr
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(y.shape), y)


@pytest.mark.skipif(not (MADE / ".complete").exists(), reason="no build/musl: tests/musl/make_python.sh makes it")
def test_a_python_with_numpy_on_musl(artifacts: Path, tmp_path: Path) -> None:
    python = next((MADE / "python" / "bin").glob("python3.[0-9]*[0-9]"))
    job = {"folder": str(artifacts), "expected": native().name, "layers": list(LAYERS), "foreign": ["riscv64"]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(MADE / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, GUEST, tmp_path / "job.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert all(report["selftest"].values()), report
    assert report["refused"]["riscv64"].startswith("ArtifactError: ")
    for name in LAYERS:
        reference = np.load(artifacts / f"{name}.expected.npy")
        for threads in (1, 3):
            np.testing.assert_array_equal(np.load(artifacts / f"{name}.y{threads}.npy"), reference, err_msg=name)
