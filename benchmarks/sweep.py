"""How far the heuristic's schedules are from the best of the record space.

For each layer of a suite it measures the heuristic's record beside a sweep of the tuner's space (``tuning.sweep``):
every block structure with every register tile, then every depthwise tile and unrolling around the best of those. The
leaders of the sweep are measured again in several launches. One thread, interleaved with the heuristic's. Hundreds of
candidates per layer; what was measured is kept in --work, so that a sweep that was ended goes on. Writes JSON and
prints a table.

    python benchmarks/sweep.py --suite dev --suite held-out
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sepcompile import targets
from sepcompile.bench import suites
from sepcompile.bench.layers import BenchLayer
from sepcompile.frontend import read_layer
from sepcompile.tuning.build import Subject
from sepcompile.tuning.sweep import sweep
from sepcompile.tuning.workbench import workbench

LEADERS = 5


def look(layer: BenchLayer, target: targets.Target, folder: Path) -> dict[str, object]:
    """One layer: the best of the sweep, and how far the heuristic's record is from it."""
    source = {"class_name": layer.class_name, "config": dict(layer.config)}
    version = "2" if layer.config.get("padding") == "causal" else "3.15"
    imported = read_layer(source, input_shape=layer.input_shape, keras_version=version)
    with workbench(Subject(imported.program, imported.weights, target), folder) as bench:
        times = sweep(bench.space, bench.ratios)
        leaders = sorted(times, key=lambda point: (times[point], point))[:LEADERS]
        default = bench.space.default
        found = {point: bench.again(bench.space.record(point), default, purpose="leader") for point in leaders}
        best = min(found, key=lambda point: found[point])
        record, ours = bench.space.record(best).to_json(), default.to_json()
        changed = {name: value for name, value in record.items() if ours[name] != value}
        off = max(1.0, 1.0 / found[best])
        return {
            "layer": layer.name, "off": off, "heuristic": ours, "best": record, "changed": changed, "tried": len(times)
        }  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", help="dev, held-out or a file; repeatable, default dev")
    parser.add_argument("--only", action="append", default=[], help="a layer's name; repeatable")
    parser.add_argument("--target", default="native")
    parser.add_argument("--work", type=Path, default=Path("build/tuning"), help="folder of what was measured")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    target = targets.get_target(options.target)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.suite or ["dev"]:
        for layer in suites.load(name):
            if options.only and layer.name not in options.only:
                continue
            row = look(layer, target, options.work)
            rows.append(row)
            print(f"{layer.name:18s} x{row['off']:.3f} of {row['tried']} {row['changed']}", flush=True)
    offs = sorted(float(str(row["off"])) for row in rows)
    if not offs:
        parser.error(f"no layer is called {', '.join(options.only)}")
    print(f"{sum(off <= 1.05 for off in offs)} of {len(offs)} rows within 5%; worst x{offs[-1]:.3f}")
    if options.output:
        options.output.write_text(json.dumps({"target": target.name, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
