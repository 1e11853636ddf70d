"""What TVM's own tuner makes of a separable layer: MetaSchedule over its default space, as a figure to compare with.

The layer is written as a tensor expression in NHWC with packed lanes, as `sepcompile` reads it, without bias or
activation, and tuned with one thread. XGBoost is not needed: candidates are ordered by a random model, as MetaSchedule
does where it is told to. Beside the best time found it prints how long it took; the JSON file has the course as well,
for `benchmarks/tuning_study.py --metaschedule FILE`.

    python benchmarks/metaschedule.py --only mnv1_b7 --trials 64 --output build/tuning/metaschedule.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile import targets
from sepcompile.bench import suites
from sepcompile.bench.layers import Geometry, geometry


def prim_func(geo: Geometry) -> Any:
    """Padding, depthwise and pointwise of one image."""
    from tvm import te, tirx

    (kh, kw), (sh, sw), (dh, dw) = geo.kernel, geo.strides, geo.dilation
    rows, columns = geo.out_size
    top, left = geo.pad_before
    channels, filters = geo.channels, geo.filters
    x = te.placeholder((geo.height, geo.width, channels), "float32", "x")
    taps = te.placeholder((kh, kw, channels), "float32", "taps")
    weights = te.placeholder((channels, filters), "float32", "weights")
    dy, dx, c = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx"), te.reduce_axis((0, channels), "c")

    def padded(y: Any, z: Any, k: Any) -> Any:
        inside = tirx.all(y >= top, y < top + geo.height, z >= left, z < left + geo.width)
        return tirx.if_then_else(inside, x[y - top, z - left, k], tirx.const(0.0, "float32"))

    height, width = (rows - 1) * sh + (kh - 1) * dh + 1, (columns - 1) * sw + (kw - 1) * dw + 1
    wide = te.compute((height, width, channels), padded, "padded")
    middle = te.compute(
        (rows, columns, channels),
        lambda y, z, k: te.sum(wide[y * sh + dy * dh, z * sw + dx * dw, k] * taps[dy, dx, k], axis=[dy, dx]),
        "depthwise",
    )
    out = te.compute(
        (rows, columns, filters), lambda y, z, f: te.sum(middle[y, z, c] * weights[c, f], axis=c), "pointwise"
    )
    return te.create_prim_func([x, taps, weights, out])


def course(folder: str) -> list[float]:
    """Microseconds of each candidate in the order of measuring. Lines are [workload, [trace, seconds, ...]]."""
    lines = Path(folder, "database_tuning_record.json").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)[1][1] for line in lines]
    return [float(np.mean(runs)) * 1e6 for runs in seconds]


def tune(geo: Geometry, target: targets.Target, trials: int, folder: str) -> float:
    """How many seconds tuning took; what was measured is in ``folder``."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    chosen = tvm.target.Target({**target.tvm, "num-cores": 1})
    start = time.monotonic()
    ms.tune_tir(
        mod=prim_func(geo), target=chosen, work_dir=folder, max_trials_global=trials, num_trials_per_iter=16,
        cost_model="random", seed=0,
    )  # fmt: skip
    return time.monotonic() - start


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="dev", help="dev, held-out or a file")
    parser.add_argument("--only", action="append", required=True, help="a separable layer's name; repeatable")
    parser.add_argument("--target", default="native")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    target = targets.get_target(options.target)
    rows = []
    for layer in suites.select(suites.load(options.suite), options.only):
        with tempfile.TemporaryDirectory() as folder:
            seconds = tune(geometry(layer), target, options.trials, folder)
            times = course(folder)
        best = min(times, default=math.inf)  # of nothing, where no candidate could be built and run
        rows.append(
            {"layer": layer.name, "best_us": best, "seconds": seconds, "trials": options.trials, "course_us": times}
        )
        print(f"{layer.name}: {best:.1f} us, {options.trials} trials in {seconds:.0f} s", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
