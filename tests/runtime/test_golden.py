"""Artifacts of format version 1 load for ever: as they were written by earlier versions, bit for bit.

``data/<name>.zip`` holds an artifact for x86-64-v2, ``data/<name>.npz`` what went in and came out then. They are never
made anew: ``golden`` is of the first version that wrote artifacts, ``golden_residual`` of the first with two inputs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.errors import ArtifactError
from sepcompile.runtime import cpu

DATA = Path(__file__).parent / "data"
NAMES = ("golden", "golden_residual")
OWN_LOADER = """
import sys, numpy as np
import {name}
stored = np.load(sys.argv[1])
inputs = [stored[key] for key in ("x", "residual") if key in stored.files]
assert (np.asarray({name}.load(threads=1)(*inputs)) == stored["y"]).all()
assert "sepcompile" not in sys.modules and {name}.verify().passed
"""


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(DATA / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / str(request.param)


def runs_here(folder: Path) -> bool:
    (variant,) = sepcompile.inspect(folder).variants  # type: ignore[union-attr]
    return variant.arch == cpu.machine() and not cpu.missing(variant.requires)


def test_is_read(golden: Path) -> None:
    manifest: Any = sepcompile.inspect(golden)
    assert manifest.name == golden.name
    assert (manifest.residual is not None) == golden.name.endswith("residual")
    if not runs_here(golden):
        with pytest.raises(ArtifactError, match="can run none of its variants"):
            sepcompile.load(golden)


def test_computes_what_it_did(golden: Path) -> None:
    if not runs_here(golden):
        pytest.skip("the artifacts are for x86-64")
    stored = np.load(DATA / f"{golden.name}.npz")
    inputs = [stored[key] for key in ("x", "residual") if key in stored.files]
    for threads in (1, 2):
        layer: Any = sepcompile.load(golden, threads=threads, selftest=True)
        np.testing.assert_array_equal(layer(*inputs), stored["y"])
    assert sepcompile.verify(golden).passed


def test_by_its_own_loader(golden: Path) -> None:
    """The loader that was written with it."""
    if not runs_here(golden):
        pytest.skip("the artifacts are for x86-64")
    program = OWN_LOADER.format(name=golden.name)
    arguments = [sys.executable, "-c", program, str(DATA / f"{golden.name}.npz")]
    subprocess.run(arguments, cwd=golden.parent, check=True, timeout=120, env={"PATH": "/usr/bin:/bin"})
