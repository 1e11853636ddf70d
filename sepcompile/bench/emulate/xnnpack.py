"""XNNPACK under emulation: LiteRT's wheel in an emulated Python that takes the machine for the target's core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepcompile.bench.emulate import tools
from sepcompile.bench.emulate.cores import Core, write_identity
from sepcompile.bench.emulate.counts import Block, mapped_ranges, read_counts, within
from sepcompile.bench.emulate.sysroot import Sysroot
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import Array, geometry, load_case, own_layout, to_nhwc

Runs = list[tuple[list[Block], Array]]
NAME = "xnnpack"
# The interpreter, XNNPACK and the C library's memory functions; not Python, whose part is no work of the layer.
LIBRARIES = ("ai_edge_litert", "/libc.so.6", "/libm.so.6")


@dataclass(frozen=True)
class Guest:
    """LiteRT for one core. ``root`` is the sysroot with the core's identity in it."""

    core: Core
    plugin: Path
    marks: Path
    sysroot: Sysroot
    root: Path

    @property
    def version(self) -> str:
        """The wheel's version."""
        found = sorted(self.sysroot.peers.glob("ai_edge_litert-*.dist-info"))
        return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else ""

    def run(self, folders: Sequence[Path]) -> dict[Path, Runs | BenchError]:
        """For each case: counted blocks and the output as NHWC of every way to write it as a model, or the failure.

        One process runs them all, since starting Python takes longer than most layers; after a crash the next one
        goes on behind the case that crashed.
        """
        results: dict[Path, Runs | BenchError] = {}
        while left := [folder for folder in folders if folder not in results]:
            failure = self._process(left, results)
            if failure and (rest := [folder for folder in left if folder not in results]):
                results[rest[0]] = BenchError(failure)
        return results

    def _process(self, folders: Sequence[Path], results: dict[Path, Runs | BenchError]) -> str:
        """One guest; puts what it finished into ``results`` and returns why it stopped early, if it did."""
        jobs = [(folder, _job(model)) for folder in folders for model in sorted(folder.glob("model?.tflite"))]
        work = folders[0].parent
        (work / "jobs.json").write_text(json.dumps([job for _, job in jobs]), encoding="utf-8")
        command = [self.sysroot.python, tools.HERE / "guest_litert.py", self.marks, work / "jobs.json"]
        environment = self.sysroot.environment(self.root, peers=True)
        words = [str(word) for word in command]
        said, failure = tools.run_counted(self.core, self.plugin, work / NAME, words, environment)
        finished = said.split().count("done")
        for folder in folders:
            own = [index for index, (of, _) in enumerate(jobs) if of == folder]
            if own and max(own) < finished:
                results[folder] = [_result(folder, jobs[index][1], work / f"{NAME}.{index}") for index in own]
            elif not failure:
                results[folder] = BenchError("LiteRT did not run it")
        return failure


def _result(folder: Path, job: dict[str, str], counted: Path) -> tuple[list[Block], Array]:
    layer, _, expected = load_case(folder)
    geo = geometry(layer)
    ranges = mapped_ranges(Path(job["maps"]).read_text(encoding="utf-8"), LIBRARIES)
    y = np.load(job["y"]).reshape(own_layout(geo, expected).shape)
    return within(read_counts(counted), ranges), to_nhwc(geo, y)


def _job(model: Path) -> dict[str, str]:
    files = {"x": model.with_name("x.npy"), "y": model.with_suffix(".y.npy"), "maps": model.with_suffix(".maps")}
    return {"model": str(model), **{key: str(path) for key, path in files.items()}}


def open_guest(core: Core, plugin: Path, sysroot: Sysroot, folder: Path) -> Guest:
    """Lay the core's identity over the sysroot: links to its folders, and files of our own beside them."""
    root = folder / f"root-{core.target.name}"
    root.mkdir(parents=True, exist_ok=True)
    for part in sysroot.root.iterdir():
        link = root / part.name
        if not link.exists():
            link.symlink_to(part)
    write_identity(core, root)
    return Guest(core, plugin, tools.build_marks(core, folder), sysroot, root)


def write_models(sysroot: Sysroot, folders: Sequence[Path]) -> None:
    """The models of all cases, written by a process of its own."""
    command = [sys.executable, "-m", "sepcompile.bench.emulate.write_models", str(sysroot.peers), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the LiteRT models cannot be written: {done.stderr.strip()[-300:]}")
