"""The benchmark from options to report."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sepcompile.bench import cases, ceilings, machine, model_blocks, stats, suites
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.options import BenchOptions
from sepcompile.bench.peers import ISA_ENV, MODULES, OURS, REQUIRES
from sepcompile.bench.peers.base import Settings
from sepcompile.bench.race import Lane, Racer, run_launch
from sepcompile.bench.report import BenchReport, Ceilings, PeerStatus, Result, Row

FIND = """
import importlib.util, json, sys
wanted = json.loads(sys.argv[1])
print(json.dumps({n: [m for m in ms if importlib.util.find_spec(m) is None] for n, ms in wanted.items()}))
"""


def describe_peers(python: str) -> dict[str, str]:
    """Every known peer: an empty string where it can be imported by ``python``, else what is missing."""
    foreign = {name: modules for name, modules in REQUIRES.items() if name != OURS}
    done = subprocess.run([python, "-c", FIND, json.dumps(foreign)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BenchError(f"{python} cannot be asked for its packages: {done.stderr.strip()[-300:]}")
    missing: dict[str, list[str]] = json.loads(done.stdout)
    return {name: f"not installed: {', '.join(modules)}" if modules else "" for name, modules in missing.items()}


def check(options: BenchOptions) -> list[BenchLayer]:
    """The layers that would run, with every mistake in the options raised before any work."""
    if options.blocks:
        return suites.checked(block.layer for block in options.blocks)
    layers = suites.checked(options.layers) if options.layers else suites.load(options.suite)
    return suites.select(layers, options.only)


def run(options: BenchOptions) -> BenchReport:
    """Race our layers against every peer asked for, or every one present."""
    if options.isa and options.target == "native":
        options = replace(options, target=options.isa)
    layers = check(options)
    with work_folder(options) as folder:
        options.progress("computing the float64 outputs")
        if options.blocks:
            model_blocks.write_cases(options.blocks, folder)
        else:
            cases.write_cases(layers, folder, options.seed)
        if options.ours and OURS not in options.commands:
            _compile(options, layers, folder)
        return _Run(options, layers, folder).report()


def _compile(options: BenchOptions, layers: Sequence[BenchLayer], folder: Path) -> None:
    """Our own artifacts, each beside its case."""
    blocks = {block.layer.name: block for block in options.blocks}
    for number, layer in enumerate(layers, 1):
        options.progress(f"compile {number}/{len(layers)} {layer.name}")
        if layer.name in blocks:
            model_blocks.compile_block(blocks[layer.name], folder / layer.name, options.target)
        else:
            cases.compile_ours(layer, folder / layer.name, options.target, options.seed, options.compile)


@contextlib.contextmanager
def work_folder(options: BenchOptions) -> Iterator[Path]:
    """Where cases and artifacts go: the caller's folder, kept, or a temporary one."""
    if options.work_dir is not None:
        options.work_dir.mkdir(parents=True, exist_ok=True)
        yield options.work_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="sepcompile-bench-") as folder:
        yield Path(folder)


class _Run:
    """The state of one benchmark: who takes part, what came out, and the FMA samples taken along the way."""

    def __init__(self, options: BenchOptions, layers: Sequence[BenchLayer], folder: Path) -> None:
        self.options, self.layers, self.folder = options, layers, folder
        self.samples: dict[int, list[float]] = {n: [] for n in options.threads}
        self.statuses: list[PeerStatus] = []
        self.results: list[Result] = []
        self.probe: ceilings.Probe | None = None
        self.probe_failure = "not asked for"

    def report(self) -> BenchReport:
        names, absent = self._participants()
        self._open_probe()
        for threads in self.options.threads:
            self.statuses += [PeerStatus(name, threads, "absent", reason) for name, reason in absent.items()]
            self._race(names, threads)
        found = self._ceilings()
        rows = stats.make_rows(self.layers, self.options.threads, self.results, found.fma_gflops)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return BenchReport(
            now, self.options.to_json(), machine.describe(), found, tuple(self.layers), tuple(self.statuses),
            tuple(self.results), rows, stats.summarize(rows), tuple(self._warnings(rows)),
        )  # fmt: skip

    def _participants(self) -> tuple[list[str], dict[str, str]]:
        """The peers to start, ours first, and those that are missing with the reason."""
        ours = [OURS] if self.options.ours else []
        wanted = [n for n in self.options.peers or (*MODULES, *self.options.commands) if n != OURS]
        wanted = list(dict.fromkeys(wanted))
        missing = describe_peers(self.options.peer_python) if set(wanted) - set(self.options.commands) else {}
        absent = {n: missing[n] for n in wanted if n not in self.options.commands and missing.get(n)}
        if self.options.isa and "openvino-default" in wanted:
            absent["openvino-default"] = "its bfloat16 kernels do not run under an instruction set limit"
        return ours + [n for n in wanted if n not in absent], absent

    def _open_probe(self) -> None:
        if not self.options.ceilings:
            return
        try:
            self.probe = ceilings.Probe(self.options.isa)
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            self.probe_failure = str(error)

    def _sample(self, threads: int) -> None:
        """One short look at the FMA rate while every peer stands still."""
        if self.probe is not None:
            self.samples[threads].append(max(self.probe.fma_gflops(threads, 0.01) for _ in range(4)))

    def _ceilings(self) -> Ceilings:
        if self.probe is None:
            return ceilings.unmeasured(self.probe_failure)
        self.options.progress("memory bandwidth")
        bandwidth = ceilings.measure_bandwidth(self.probe, tuple(self.options.threads), machine.caches())
        return ceilings.collect(self.samples, bandwidth, self.probe.vector_bits)

    def _race(self, names: Sequence[str], threads: int) -> None:
        """All launches at one thread count; the rounds of all launches add up."""
        lanes: dict[tuple[str, str], list[Lane]] = {}
        infos: dict[str, Racer] = {}
        for launch in range(self.options.launches):
            racers = [Racer(self._settings(name, threads), self.options, self.folder) for name in names]
            try:
                started = [racer for racer in racers if racer.start()]
                run_launch(started, self.layers, self.options, launch, lambda: self._sample(threads))
            finally:
                for racer in racers:
                    racer.close()
            for racer in racers:
                first = infos.setdefault(racer.name, racer)
                first.failure = first.failure or racer.failure
                for layer, lane in racer.lanes.items():
                    lanes.setdefault((racer.name, layer), []).append(lane)
        self.statuses += [self._status(infos[name]) for name in names]
        self.results += [
            self._result(infos[name], layer.name, lanes[name, layer.name])
            for layer in self.layers
            for name in names
            if (name, layer.name) in lanes
        ]

    def _settings(self, name: str, threads: int) -> Settings:
        usable = sorted(os.sched_getaffinity(0))
        cpus = tuple(usable[:threads]) if self.options.pin else ()
        return Settings(name, threads, self.options.isa, cpus, self.options.realtime)

    def _isa_of(self, name: str) -> tuple[bool, str]:
        """Whether a peer keeps to the instruction set asked for, in fact and in words."""
        if not self.options.isa:
            return True, ""
        if name == OURS:
            return True, f"compiled for {self.options.target}"
        extra = ISA_ENV[self.options.isa].get(name)
        if extra is None:
            return False, "cannot be limited: shown, but does not compete"
        return True, "limited by " + " ".join(f"{key}={value}" for key, value in extra.items())

    def _status(self, racer: Racer) -> PeerStatus:
        info, cpus = racer.info, racer.settings.cpus
        place = f"pinned to CPU {', '.join(map(str, cpus))}" if cpus else "not pinned"
        return PeerStatus(
            racer.name, racer.settings.threads, "failed" if racer.failure else "ok", racer.failure,
            str(info.get("version", "")), str(info.get("precision", "")), int(info.get("threads", 0)),
            place, self._isa_of(racer.name)[1], str(info.get("notes", "")),
        )  # fmt: skip

    def _result(self, racer: Racer, layer: str, lanes: Sequence[Lane]) -> Result:
        """A layer's lanes over all launches; one bad launch makes the whole result bad."""
        bad = next((lane for lane in lanes if lane.status != "ok"), None)
        precision = str(racer.info.get("precision", "float32"))
        result = Result(
            layer, racer.name, racer.settings.threads, bad.status if bad else "ok", precision,
            precision == "float32" and self._isa_of(racer.name)[0], bad.reason if bad else "",
            max((lane.error for lane in lanes if lane.error is not None), default=None),
            tuple(item for lane in lanes for item in lane.rounds), lanes[0].evidence,
        )  # fmt: skip
        return stats.summarize_rounds(result)

    def _warnings(self, rows: Sequence[Row]) -> Iterator[str]:
        for row in rows:
            if (row.peak_fraction or 0) > 1:
                yield f"{row.layer}: faster than the probed FMA peak; the machine was not quiet"
        for status in self.statuses:
            if status.status == "failed":
                yield f"{status.name}, {status.threads} threads: {status.reason}"
            if status.threads_reported not in (0, status.threads):
                yield f"{status.name} was asked for {status.threads} threads and says {status.threads_reported}"
        for result in self.results:
            where = f"{result.peer} on {result.layer}, {result.threads} threads"
            if result.status in ("wrong", "failed"):
                yield f"{where}: {result.status}: {result.reason}"
            if result.load is not None and result.load > 1.25 * result.threads + 0.1:
                yield f"{where}: used {result.load:.2f} CPUs"
