"""An emulated benchmark from options to report."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile.bench import cases
from sepcompile.bench.emulate import store, sysroot, tools, xnnpack
from sepcompile.bench.emulate.cores import HERE, LINE_BYTES, Core, core_of
from sepcompile.bench.emulate.loops import Figures, figures_of
from sepcompile.bench.emulate.ours import Harness
from sepcompile.bench.emulate.report import EmulationReport, Row, Side
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer, geometry
from sepcompile.bench.main import check, work_folder
from sepcompile.bench.options import TOLERANCE, BenchOptions
from sepcompile.bench.peers import OURS
from sepcompile.bench.reference import error_of
from sepcompile.errors import SepcompileError
from sepcompile.targets import get_target

PEER = "litert"


def run(options: BenchOptions, sysroots: Path = sysroot.DEFAULT) -> EmulationReport:
    """Count our layers and XNNPACK's on the core that ``options.target`` names.

    ``sysroots`` is the folder that `make arm-sysroot` filled.
    Raises BenchError where a program or a sysroot is missing, naming what to install, before anything runs.
    """
    layers = check(options)
    try:
        core = core_of(get_target(options.target))
    except SepcompileError as error:
        raise BenchError(str(error)) from error
    peers = _checked_peers(options, core)
    needed = {"qemu": tools.qemu(core)}
    if core.models:
        needed |= {name: tools.llvm(name) for name in ("llvm-mc", "llvm-mca")}
    userland = None if core.debian == HERE else sysroot.find(sysroots, core.debian)
    with work_folder(options) as folder:
        return _Run(options, core, userland, peers, folder).report(layers, needed)


def _checked_peers(options: BenchOptions, core: Core) -> bool:
    """Whether XNNPACK takes part. It does where there is a LiteRT wheel for the architecture."""
    if unknown := set(options.peers) - {OURS, PEER}:
        raise BenchError(f"peer {', '.join(sorted(unknown))} cannot be counted under emulation; {PEER} can")
    return core.debian in sysroot.PLATFORMS and (not options.peers or PEER in options.peers)


class _Run:
    """The state of one benchmark: what was built for it, and where."""

    def __init__(
        self, options: BenchOptions, core: Core, userland: sysroot.Sysroot | None, peers: bool, folder: Path
    ) -> None:
        self.options, self.core, self.folder = options, core, folder
        plugin = tools.build_plugin(folder)
        self.harness = Harness(core, plugin, tools.build_harness(core, folder), userland)
        self.guest = xnnpack.open_guest(core, plugin, userland, folder) if peers and userland is not None else None

    def report(self, layers: Sequence[BenchLayer], programs: dict[str, str]) -> EmulationReport:
        self.options.progress("computing the float64 outputs")
        cases.write_cases(layers, self.folder, self.options.seed)
        theirs = self._count_peer(layers)
        rows = []
        for number, layer in enumerate(layers, 1):
            self.options.progress(f"{number}/{len(layers)} {layer.name}")
            rows.append(self._row(layer, theirs[layer.name]))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        core, peer = self.core, f"LiteRT {self.guest.version} with XNNPACK" if self.guest is not None else ""
        versions = {name: _version(program) for name, program in programs.items()}
        suite = self.options.suite if not self.options.layers else "layers given"
        return EmulationReport(
            now, suite, core.target.name, core.cpu, core.l1, core.l2, core.models, versions, peer, tuple(rows)
        )

    def _count_peer(self, layers: Sequence[BenchLayer]) -> dict[str, Side]:
        """XNNPACK's side of every layer."""
        if self.guest is None:
            return {layer.name: Side("absent", "no LiteRT for this architecture, or not asked for") for layer in layers}
        sides: dict[str, Side] = {}
        left: dict[Path, BenchLayer] = {}
        for layer in layers:
            folder = self.folder / layer.name
            if (kept := store.read(folder, self._peer_key(layer))) is not None:
                sides[layer.name] = kept
            else:
                left[folder] = layer
        if left:
            self.options.progress(f"XNNPACK as on {self.core.target.name}: {len(left)} layers")
            xnnpack.write_models(self.guest.sysroot, list(left))
        for folder, runs in self.guest.run(list(left)).items():
            layer = left[folder]
            sides[layer.name] = side = self._side(runs, folder)
            if side.status == "ok":
                store.write(folder, self._peer_key(layer), side)
        return sides

    def _peer_key(self, layer: BenchLayer) -> dict[str, Any]:
        assert self.guest is not None
        core = self.core
        geometry_ = [core.target.name, core.cpu, core.plugin_options, list(core.models)]
        return store.key_of(layer=layer.to_json(), core=geometry_, version=self.guest.version, seed=self.options.seed)

    def _row(self, layer: BenchLayer, theirs: Side) -> Row:
        folder = self.folder / layer.name
        ours = Side("absent", "not asked for")
        if self.options.ours:
            failure = cases.compile_ours(layer, folder, self.options.target, self.options.seed, self.options.compile)
            ours = Side("failed", failure) if failure else self._side(self._count_ours(folder), folder)
        geo = geometry(layer)
        return Row(layer.name, geo.macs, geo.bytes_moved // LINE_BYTES, ours, theirs)

    def _count_ours(self, folder: Path) -> xnnpack.Runs | BenchError:
        try:
            return [self.harness.run(folder)]
        except BenchError as error:
            return error

    def _side(self, runs: xnnpack.Runs | BenchError, folder: Path) -> Side:
        """The best of a contestant's set-ups: fewest modelled cycles, else fewest instructions."""
        if isinstance(runs, BenchError):
            return Side("failed", str(runs))
        with np.load(folder / "data.npz") as stored:
            expected = stored["expected"]
        error = max(error_of(output, expected) for _, output in runs)
        if error > TOLERANCE["float32"]:
            return Side("wrong", f"its output is off by {error:.2g} of the largest value", error)
        figures = [figures_of(blocks, self.core.models, self.core.target.arch) for blocks, _ in runs]
        return Side("ok", "", error, min(figures, key=self._rank))

    def _rank(self, figures: Figures) -> float:
        return figures.cycles[self.core.models[0]] if self.core.models else figures.instructions


def _version(program: str) -> str:
    """The first line of what a program says of its version that holds a number."""
    path = shutil.which(program) or program
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = (line.strip() for line in done.stdout.splitlines())
    return next((line for line in lines if "version" in line), "")
