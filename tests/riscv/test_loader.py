"""One artifact for RISC-V and x86 in a RISC-V userland under qemu-user: the real loader, Debian's Python and NumPy.

`make arm-sysroot` unpacks the userland into build/arm; without it, or without qemu-user, these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from tests.arm.test_loader import _keras_weights, _run
from tests.compile.cases import expected, image, read, with_integers
from tests.riscv.qemu_run import CPUS

TARGETS = ("riscv64", "riscv64-v", "x86-64-v3")
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int | None, ...]]] = {
    "fused": ("SeparableConv2D", {"filters": 40, "kernel_size": 3, "padding": "same"}, (9, 13, 24)),
    "first": ("SeparableConv2D", {"filters": 12, "kernel_size": 3, "data_format": "channels_first"}, (9, 10, 11)),
    "alone": ("DepthwiseConv1D", {"kernel_size": 31, "padding": "same"}, (90, 17)),
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


@pytest.mark.parametrize(
    ("cpu", "variant", "foreign"),
    [
        ("none", "riscv64", {"riscv64-v": "needs v", "x86-64-v3": "x86_64"}),
        ("128", "riscv64-v", {"x86-64-v3": "x86_64"}),
    ],
)
def test_the_loader_picks_its_variant_and_computes_exactly(
    cpu: str, variant: str, foreign: dict[str, str], artifacts: Path, tmp_path: Path
) -> None:
    job = {"folder": str(artifacts), "expected": variant, "layers": list(LAYERS), "foreign": list(foreign)}
    report = _run("riscv64", CPUS[cpu], job, tmp_path)
    assert all(report["selftest"].values()), report
    for target, words in foreign.items():
        assert report["refused"][target].startswith("ArtifactError: "), report["refused"]
        assert words in report["refused"][target], report["refused"][target]
    for name in LAYERS:
        reference = np.load(artifacts / f"{name}.expected.npy")
        for threads in (1, 3):
            np.testing.assert_array_equal(np.load(artifacts / f"{name}.y{threads}.npy"), reference, err_msg=name)
