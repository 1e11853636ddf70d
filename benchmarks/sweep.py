"""How far the heuristic's schedules are from the best of the record space.

For each layer of a suite it times the heuristic's record against a sweep: block structures with a dozen register tiles
each, then every depthwise tile and unrolling around the best of those. Kernels are called directly, one thread, in
interleaved rounds; the figure is the minimum. Writes a JSON file and prints a table.

    python benchmarks/sweep.py --suite dev --suite held-out
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sepcompile import targets
from sepcompile.bench import suites
from sepcompile.codegen.link import link_objects, memory_object
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.variant import compile_variant, read_program
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.errors import ScheduleError
from sepcompile.frontend import ImportedLayer, read_layer
from sepcompile.runtime.buffers import Buffer
from sepcompile.schedule import choose
from sepcompile.schedule.limits import check_record


class Candidate:
    """One compiled record with buffers of its own."""

    def __init__(self, layer: ImportedLayer, target: targets.Target, record: Schedule) -> None:
        self.record = record
        compiled = compile_variant(
            layer.program, layer.weights, target, symbol="k", worker=shared_worker(), schedule=record
        )
        self.best = float("inf")
        self._calls = self._bind(compiled, target)

    def _bind(self, compiled: Compiled, target: targets.Target) -> list[tuple[object, list[object]]]:
        plan = compiled.plan
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "k.so"
            objects = [compiled.object_code, memory_object(target.triple)]
            path.write_bytes(link_objects(objects, exports=[s.symbol for s in plan.steps], soname="k.so"))
            library = ctypes.CDLL(str(path))
        sizes = {"x": plan.x_bytes, "y": plan.y_bytes} | {f"t:{name}": size for name, size in plan.intermediates}
        self._buffers = {name: _filled(size) for name, size in sizes.items()}
        for name, array in compiled.weights.items():
            self._buffers[f"w:{name}"] = _filled(array.nbytes, array)
        calls = []
        for step in plan.steps:
            scratch = self._buffers[f"scratch:{step.symbol}"] = _filled(step.scratch_bytes + 64)
            operands: list[object] = [ctypes.c_void_p(self._buffers[name].address) for name in step.operands]
            calls.append((getattr(library, step.symbol), [*operands, ctypes.c_void_p(scratch.address), 0, step.tasks]))
        return calls

    def run(self, seconds: float) -> None:
        """Call for ``seconds`` and keep the fastest call."""
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            for function, arguments in self._calls:
                function(*arguments)  # type: ignore[operator]
            self.best = min(self.best, time.perf_counter() - start)


def _filled(nbytes: int, array: np.ndarray | None = None) -> Buffer:
    """Memory with real data in it: untouched pages would all be one page of zeros."""
    buffer = Buffer(max(nbytes, 1))
    values = np.random.default_rng(0).standard_normal(-(-max(nbytes, 1) // 4)).astype(np.float32)
    data = (values if array is None else array).tobytes()[: max(nbytes, 1)]
    ctypes.memmove(buffer.address, data, len(data))
    return buffer


def structures(form: Form, base: Schedule) -> Iterator[Schedule]:
    """Block structures and register tiles."""
    if form.pointwise is None:
        for rows in {1, 2, 4, 8, form.out_height}:
            yield dataclasses.replace(base, rows=min(rows, form.out_height))
        return
    tiles = [(14, 2), (13, 2), (12, 2), (10, 2), (9, 3), (8, 3), (7, 3), (6, 4), (5, 5), (4, 4), (7, 2), (20, 1)]
    whole = {"rows": form.out_height, "columns": form.out_width, "split": True}
    blocks: list[dict[str, object]] = [{**whole, "order": "panel"}, {**whole, "order": "pixel"}]
    for n in (1, 2, 3, 4, 7, 14):
        if form.out_height > 1:
            blocks.append({"rows": min(n, form.out_height), "split": False, "order": "pixel"})
        else:
            blocks.append({"columns": -(-form.out_width // n), "split": False, "order": "pixel"})
    for block, (pixels, vectors) in itertools.product(blocks, tiles):
        yield dataclasses.replace(base, **block, tile_pixels=pixels, tile_vectors=vectors)  # type: ignore[arg-type]


def refinements(form: Form, base: Schedule) -> Iterator[Schedule]:
    """Depthwise tiles and unrolling around a record."""
    for rows, columns in itertools.product((1, 2, 4), (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)):
        tile = {"tile_rows": min(rows, base.rows), "tile_columns": min(columns, base.columns)}
        yield dataclasses.replace(base, **tile)
        yield dataclasses.replace(base, **tile, unroll_rows=not base.unroll_rows)
    yield dataclasses.replace(base, staged=not base.staged)
    for taps in (1, 3, 5, 8, 11, 15):
        yield dataclasses.replace(base, tap_unroll=min(taps, form.depthwise.kernel_size[1]))
    for unroll in (1, 2, 8):
        yield dataclasses.replace(base, k_unroll=unroll)


def race(candidates: list[Candidate], rounds: int, seconds: float) -> Candidate:
    """Time all candidates in interleaved rounds; returns the fastest."""
    for _ in range(rounds):
        for candidate in candidates:
            candidate.run(seconds)
    return min(candidates, key=lambda candidate: candidate.best)


def build(
    layer: ImportedLayer, target: targets.Target, form: Form, records: Iterable[Schedule]
) -> list[Candidate]:
    """The distinct records that fit, compiled."""
    fitting = []
    for record in dict.fromkeys(records):
        try:
            check_record(record, form, target.machine)
        except ScheduleError:
            continue
        fitting.append(Candidate(layer, target, record))
    return fitting


def sweep(layer: ImportedLayer, target: targets.Target) -> tuple[Candidate, Candidate, int]:
    """The heuristic's candidate, the best one found, timed beside each other, and how many were tried."""
    form, _ = read_program(layer.program, layer.weights)
    heuristic = choose(form, target)
    tried = build(layer, target, form, [heuristic, *structures(form, heuristic)])
    leader = race(tried, 3, 0.004)
    more = build(layer, target, form, refinements(form, leader.record))
    second = race([leader, *more], 3, 0.004)
    final = build(layer, target, form, [heuristic, second.record, leader.record])
    best = race(final, 10, 0.01)
    return final[0], best, len(tried) + len(more)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", help="dev, held-out or a file; repeatable, default dev")
    parser.add_argument("--only", action="append", default=[], help="a layer's name; repeatable")
    parser.add_argument("--target", default="native")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    target = targets.get_target(options.target)
    rows = []
    for name in options.suite or ["dev"]:
        for item in suites.load(name):
            if options.only and item.name not in options.only:
                continue
            source = {"class_name": item.class_name, "config": dict(item.config)}
            version = "2" if item.config.get("padding") == "causal" else "3.15"
            layer = read_layer(source, input_shape=item.input_shape, keras_version=version)
            if hasattr(os, "sched_setscheduler") and os.geteuid() == 0:
                shared_worker().start()
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
            ours, best, tried = sweep(layer, target)
            off = ours.best / best.best
            changed = {k: v for k, v in best.record.to_json().items() if ours.record.to_json()[k] != v}
            found = {"heuristic": ours.record.to_json(), "best": best.record.to_json(), "tried": tried}
            microseconds = {"heuristic_us": ours.best * 1e6, "best_us": best.best * 1e6}
            rows.append({"layer": item.name, **microseconds, "off": off, **found})
            times = f"{ours.best * 1e6:9.1f} us  best {best.best * 1e6:9.1f} us"
            print(f"{item.name:18s} {times}  x{off:.3f} {changed}", flush=True)
    offs = sorted(float(row["off"]) for row in rows)  # type: ignore[arg-type]
    within = sum(off <= 1.05 for off in offs)
    print(f"{within} of {len(offs)} rows within 5%; worst x{offs[-1]:.3f}")
    if options.output:
        options.output.write_text(json.dumps({"target": target.name, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
