"""An artifact of several targets in Arm userlands under qemu-user: the real loader, Python and NumPy of Debian or pip.

`make arm-sysroot` unpacks the userlands into build/arm; without them, or without qemu-user, these tests are skipped.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

import sepcompile
from sepcompile.bench.emulate import sysroot
from sepcompile.bench.errors import BenchError
from sepcompile.frontend import ImportedLayer
from tests.compile.cases import expected, image, read, with_integers

SYSROOTS = Path(__file__).resolve().parents[2] / "build" / "arm"
GUEST = Path(__file__).with_name("guest_loader.py")
TARGETS = ("raspberry-pi-4", "cortex-a76", "armv7-neon", "cortex-a7", "x86-64-v3")
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int | None, ...]]] = {
    "fused": (
        "SeparableConv2D",
        {"filters": 40, "kernel_size": 3, "padding": "same", "activation": "relu6"},
        (11, 13, 24),
    ),
    "split": ("SeparableConv2D", {"filters": 256, "kernel_size": 3, "padding": "same"}, (7, 7, 200)),
    "planar": ("SeparableConv2D", {"filters": 12, "kernel_size": 3, "data_format": "channels_first"}, (9, 10, 11)),
    "long": ("SeparableConv1D", {"filters": 20, "kernel_size": 31, "padding": "same", "activation": "relu"}, (90, 17)),
    "alone": ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}, (14, 15, 33)),
}
# Debian's architecture, qemu's CPU, the variant that it gets, and what its refusals must say.
CORES = {
    "Cortex-A72": ("arm64", "cortex-a72", "cortex-a72", {"cortex-a76": "asimddp", "x86-64-v3": "x86_64"}),
    "Cortex-A76": ("arm64", "cortex-a76", "cortex-a76", {"cortex-a7": "armv7", "x86-64-v3": "x86_64"}),
    "Cortex-A9": ("armhf", "cortex-a9", "armv7-neon", {"cortex-a7": "vfpv4", "cortex-a72": "aarch64"}),
    "Cortex-A7": ("armhf", "cortex-a7", "cortex-a7", {"cortex-a72": "aarch64"}),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one artifact per layer, an input of three images for each, and what comes out of it."""
    folder = tmp_path_factory.mktemp("artifacts")
    for name, (kind, config, shape) in LAYERS.items():
        layer = with_integers(read(kind, {**config, "name": name}, (None, *shape), keras_version="3.15"))
        sepcompile.compile(
            {"class_name": kind, "config": {**config, "name": name}}, (None, *shape), TARGETS, _keras_weights(layer),
            "3.15", output=folder / name, cache=False,
        )  # fmt: skip
        x = np.concatenate([image(layer, integers=True, seed=seed) for seed in range(3)])
        np.save(folder / f"{name}.x.npy", x)
        np.save(folder / f"{name}.expected.npy", expected(layer, x)[0])
    return folder


def _keras_weights(layer: ImportedLayer) -> dict[str, np.ndarray]:
    """The layer's weights in Keras's shapes."""
    depthwise = layer.weights["depthwise_kernel"]
    one_row = len(layer.program.input.shape) == 3
    found = dict(layer.weights, depthwise_kernel=depthwise[0] if one_row else depthwise)
    if "pointwise_kernel" in found:
        matrix = found["pointwise_kernel"]
        found["pointwise_kernel"] = matrix.reshape(*((1,) if one_row else (1, 1)), *matrix.shape)
    return found


@pytest.mark.parametrize("core", CORES)
def test_the_loader_picks_its_variant_and_computes_exactly(core: str, artifacts: Path, tmp_path: Path) -> None:
    debian, cpu, variant, foreign = CORES[core]
    job = {"folder": str(artifacts), "expected": variant, "layers": list(LAYERS), "foreign": list(foreign)}
    report = _run(debian, cpu, job, tmp_path)
    assert all(report["selftest"].values()), report
    for target, word in foreign.items():
        assert report["refused"][target].startswith("ArtifactError: "), report["refused"]
        assert word in report["refused"][target], report["refused"][target]
    for name in LAYERS:
        reference = np.load(artifacts / f"{name}.expected.npy")
        for threads in (1, 3):
            np.testing.assert_array_equal(np.load(artifacts / f"{name}.y{threads}.npy"), reference, err_msg=name)


def test_a_core_without_the_features_is_refused_not_killed(tmp_path: Path) -> None:
    config = {"class_name": "DepthwiseConv2D", "config": {"kernel_size": 3, "name": "newer"}}
    sepcompile.compile(
        config, (None, 5, 5, 4), "raspberry-pi-5", keras_version="3.15", output=tmp_path / "newer", cache=False
    )
    job = {"folder": str(tmp_path), "expected": None, "layers": ["newer"], "foreign": []}
    refused = _run("arm64", "cortex-a53", job, tmp_path)["refused"]["all"]
    assert refused.startswith("ArtifactError: ") and "can run none of its variants: cortex-a76 needs" in refused, (
        refused
    )
    assert "asimddp" in refused and "atomics" in refused, refused


def _run(debian: str, cpu: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The guest's report; fails with its traceback. Skips where this machine has no such userland."""
    try:
        system = sysroot.find(SYSROOTS, debian)
    except BenchError as error:
        pytest.skip(str(error))
    qemu = shutil.which(sysroot.QEMU[debian])
    if qemu is None:
        pytest.skip(f"{sysroot.QEMU[debian]} is not found; on Debian it is in the package qemu-user")
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    command = [qemu, "-cpu", cpu, str(system.python), str(GUEST), str(path)]
    environment = {**os.environ, **system.environment()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:] or f"status {done.returncode}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_libraries_need_no_other_library(artifacts: Path) -> None:
    """No C library is asked for, so that glibc, musl and Android's serve alike."""
    libraries = sorted(artifacts.glob("*/*/lib*.so"))
    assert len(libraries) == len(LAYERS) * len(TARGETS)
    for library in libraries:
        file = ELFFile(io.BytesIO(library.read_bytes()))
        dynamic, symbols = file.get_section_by_name(".dynamic"), file.get_section_by_name(".dynsym")
        assert not [tag for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"], library
        assert not [s.name for s in symbols.iter_symbols() if s.name and s["st_shndx"] == "SHN_UNDEF"], library
        assert not [s for s in file.iter_segments() if s["p_type"] == "PT_INTERP"], library
