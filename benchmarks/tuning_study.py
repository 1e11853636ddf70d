"""What tuning gains per layer, and how the search compares with others: random, evolution, no start by the cost model.

For each layer of a suite: the search at 64 trials, its winner measured again beside the heuristic's schedule in several
launches, with one thread and with all; with --compare the other strategies at as many trials; with --exhaustive a sweep
of the space (hundreds of candidates), with its best measured beside the winner. Everything is kept in a database: a run
that was ended goes on where it was. Writes JSON and, of the strategies' courses, an SVG file; prints a table.

    python benchmarks/tuning_study.py --suite dev --compare all --exhaustive mnv1_b7 --output build/tuning

--synthetic compares the strategies on costs that are known instead, and needs no quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile import targets
from sepcompile.bench import suites
from sepcompile.bench.layers import BenchLayer
from sepcompile.frontend import read_layer
from sepcompile.tuning.build import Subject
from sepcompile.tuning.families import build_space
from sepcompile.tuning.search import Search, SearchSettings
from sepcompile.tuning.space import Point, Space
from sepcompile.tuning.sweep import sweep
from sepcompile.tuning.tuner import SearchOptions, Tuner
from sepcompile.tuning.workbench import Workbench, workbench

WIDTH = 5


def subject_of(layer: BenchLayer, target: targets.Target) -> Subject:
    """A suite's layer as the tuner takes it."""
    version = "2" if layer.config.get("padding") == "causal" else "3.15"
    source = {"class_name": layer.class_name, "config": dict(layer.config)}
    imported = read_layer(source, input_shape=layer.input_shape, keras_version=version)
    return Subject(imported.program, imported.weights, target)


# ---- strategies ----------------------------------------------------------------------------------------------------


def proposals(
    name: str, space: Space[Any], ratios: Callable[[Sequence[Point]], Mapping[Point, float]], seed: int, trials: int
) -> list[tuple[Point, float]]:
    """What a strategy measures, in order, with the times over the heuristic's."""
    told: list[tuple[Point, float]] = []
    propose = STRATEGIES[name](space, seed)
    while len(told) < trials:
        # A few at a time, as they are under way at a time.
        points = [
            point for point in (propose(told) for _ in range(min(WIDTH, trials - len(told)))) if point is not None
        ]
        if not points:
            break
        times = ratios(points)
        told += [(point, times.get(point, math.inf)) for point in points]
    return told


Told = Sequence[tuple[Point, float]]
Propose = Callable[[Told], Point | None]


def random_points(space: Space[Any], seed: int) -> Propose:
    """Any allowed point."""
    rng = np.random.default_rng(seed)
    return lambda told: space.random(rng)


def evolution(space: Space[Any], seed: int) -> Propose:
    """Mutations and mixtures of the best few, and now and then any point."""
    rng = np.random.default_rng(seed)

    def propose(told: Told) -> Point:
        ranked = [space.start, *(point for point, _ in sorted(told, key=lambda item: item[1]))][:6]
        one, other = (ranked[int(rng.integers(len(ranked)))] for _ in range(2))
        return space.random(rng) if rng.random() < 0.15 else space.mutate(space.cross(one, other, rng), rng)

    return propose


def by_search(settings: SearchSettings) -> Callable[[Space[Any], int], Propose]:
    """The search as it is, or with the cost model alone."""

    def strategy(space: Space[Any], seed: int) -> Propose:
        search, known = Search(space, seed, settings), 0

        def propose(told: Told) -> Point | None:
            nonlocal known
            for point, ratio in told[known:]:
                search.tell(point, ratio if ratio < math.inf else None)
            known = len(told)
            return search.propose()

        return propose

    return strategy


STRATEGIES: dict[str, Callable[[Space[Any], int], Propose]] = {
    "random": random_points,
    "evolution": evolution,
    "search without a start": by_search(SearchSettings(start=0)),
    "search": by_search(SearchSettings()),
}
# What the curves show, MetaSchedule's from `benchmarks/metaschedule.py`.
METASCHEDULE = "MetaSchedule"
COLOURS = dict(zip((*STRATEGIES, METASCHEDULE), ("#8aa29e", "#edae49", "#30638e", "#d1495b", "#6a4c93"), strict=True))


# ---- one layer -----------------------------------------------------------------------------------------------------


def study(layer: BenchLayer, target: targets.Target, options: argparse.Namespace) -> dict[str, object]:
    """Everything about one layer."""
    with workbench(subject_of(layer, target), options.output) as bench:
        chosen = SearchOptions(options.trials, None, options.seed, 1, bench.cpus, bench.width)
        start = time.monotonic()
        result = Tuner(bench.space, bench.lab, chosen, lambda state: None).run()
        wall, activity = time.monotonic() - start, bench.lab.activity
        default = bench.space.default
        row: dict[str, Any] = {
            "layer": layer.name, "group": layer.group, "default_us": result.default_seconds * 1e6,
            "gain": result.gain, "ratio": result.comparison.ratio, "noise": result.comparison.noise,
            "default": default.to_json(), "schedule": result.schedule.to_json(), "trials": len(result.trials),
            "failures": sum(trial.failure is not None for trial in result.trials), "space": bench.space.size,
            "wall_s": wall, "compile_s": activity.compile_s, "measure_s": activity.measure_s,
            "idle_s": max(0.0, wall - activity.busy_s), "notes": result.notes,
            "again": {n: bench.again(result.schedule, default, n) for n in sorted({1, bench.cpus})},
        }  # fmt: skip
        if layer.name in options.compare or "all" in options.compare:
            row["courses"] = {
                name: [
                    [min(ratio, 1e3) for _, ratio in proposals(name, bench.space, bench.ratios, seed, options.trials)]
                    for seed in range(options.seeds)
                ]
                for name in STRATEGIES
            }
        if layer.name in options.exhaustive or "all" in options.exhaustive:
            row["exhaustive"] = exhaustive(bench, result.schedule)
        if layer.name in options.metaschedule:
            course = [us / (result.default_seconds * 1e6) for us in options.metaschedule[layer.name]]
            row.setdefault("courses", {})[METASCHEDULE] = [course]
        return row


def metaschedule_courses(path: Path) -> dict[str, list[float]]:
    """Microseconds per trial by layer, from the file that `benchmarks/metaschedule.py` wrote."""
    return {row["layer"]: row["course_us"] for row in json.loads(path.read_text(encoding="utf-8"))}


def exhaustive(bench: Workbench, schedule: Any) -> dict[str, object]:
    """The best of a sweep, measured again beside the search's."""
    times = sweep(bench.space, bench.ratios)
    leaders = sorted(times, key=lambda point: (times[point], point))[:5]
    found = {point: bench.again(bench.space.record(point), bench.space.default, purpose="leader") for point in leaders}
    best = min(found, key=lambda point: found[point])
    record = bench.space.record(best)
    return {
        "measured": len(times),
        "ratio": found[best],
        "schedule": record.to_json(),
        "search_over_best": bench.again(schedule, record),
    }


# ---- costs that are known ----------------------------------------------------------------------------------------


def synthetic(layer: BenchLayer, target: targets.Target, options: argparse.Namespace) -> dict[str, object]:
    """The strategies on invented costs: the model's to a power, times a smooth function around some optimum.

    The ratios are to the least cost that descents from many points find, not to the heuristic's.
    """
    subject = subject_of(layer, target)
    space = build_space(subject.form, target, None)
    courses: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    for seed in range(options.seeds):
        cost = _invented(space, seed)
        rng = np.random.default_rng(99)
        starts = [min((space.random(rng) for _ in range(100)), key=cost) for _ in range(3)]
        best = min(cost(_descend(space, cost, start)) for start in starts)
        for name in STRATEGIES:

            def ratios(points: Sequence[Point], cost: Cost = cost) -> dict[Point, float]:
                return {point: cost(point) / cost(space.start) for point in points}

            told = proposals(name, space, ratios, seed, options.trials)
            courses[name].append([ratio * cost(space.start) / best for _, ratio in told])
    return {"layer": layer.name, "courses": courses}


Cost = Callable[[Point], float]


def _invented(space: Space[Any], seed: int) -> Cost:
    rng = np.random.default_rng(seed)
    centre = space.features([space.random(rng)])[0]
    slopes = rng.gamma(1.0, 0.02, centre.size)
    mixing = rng.normal(0.0, 0.004, (centre.size, centre.size))

    @cache
    def cost(point: Point) -> float:
        away = space.features([point])[0] - centre
        bent = slopes @ np.abs(away) + np.sum((mixing.T @ away) ** 2)
        return float(space.cost(point) ** 0.6 * np.exp(bent))

    return cost


def _descend(space: Space[Any], cost: Cost, point: Point) -> Point:
    while cost(near := min(space.neighbours(point), key=cost, default=point)) < cost(point):
        point = near
    return point


# ---- figures -------------------------------------------------------------------------------------------------------


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| layer | heuristic us | tuned / it | again, 1 thread | again, all | best of sweep | search / best | s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = f"{row['ratio']:.3f} +-{row['noise']:.3f}" if row["gain"] else "no gain"
        again = [f"{value:.3f}" for value in row["again"].values()]
        swept = row.get("exhaustive")
        best = f"{swept['ratio']:.3f} of {swept['measured']}" if swept else ""
        within = f"{swept['search_over_best']:.3f}" if swept else ""
        cells = [
            row["layer"],
            f"{row['default_us']:.1f}",
            ratio,
            again[0],
            again[-1],
            best,
            within,
            f"{row['wall_s']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The figures that matter, in a few lines."""
    alone = [float(row["again"][1]) for row in rows]
    everywhere = [float(value) for row in rows for value in row["again"].values()]
    wall, idle = (sum(float(row[key]) for row in rows) for key in ("wall_s", "idle_s"))
    lines = [
        f"{len(rows)} layers: tuned / heuristic {geomean(alone):.3f} (geometric mean), slowest {max(everywhere):.3f}",
        f"idle {100 * idle / max(wall, 1e-9):.1f} % of {wall:.0f} s",
    ]
    for name in STRATEGIES:
        ends = [min(course) for row in rows for course in row.get("courses", {}).get(name, [])]
        if ends:
            lines.append(f"{name}: best of its trials {geomean(min(end, 1.0) for end in ends):.3f}")
    return "\n".join(lines)


def geomean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def curves(rows: Sequence[dict[str, Any]], trials: int, most: float, what: str) -> str:
    """The best so far of each strategy (at first ``most``), the geometric mean over layers and seeds, as SVG."""
    lines = {}
    for name in COLOURS:
        courses = [course for row in rows for course in row.get("courses", {}).get(name, []) if course]
        if courses:
            lines[name] = [geomean(min([most, *course[: n + 1]]) for course in courses) for n in range(trials)]
    low = min((min(line) for line in lines.values()), default=0.9) - 0.005
    left, right, top, bottom = 60, 600, 20, 300
    low = min(low, most - 0.01)

    def x(number: float) -> float:
        return left + number / max(1, trials - 1) * (right - left)

    def y(ratio: float) -> float:
        return top + math.log(most / ratio) / math.log(most / low) * (bottom - top)

    parts = []
    for step in range(5):
        ratio = most * (low / most) ** (step / 4)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(ratio):.1f}" y2="{y(ratio):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(ratio) + 4:.1f}" text-anchor="end">{ratio:.3f}</text>')
    for number in range(0, trials, 8):
        parts.append(f'<text x="{x(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number + 1}</text>')
    for row, (name, line) in enumerate(lines.items()):
        path = " ".join(f"{x(n):.1f},{y(ratio):.1f}" for n, ratio in enumerate(line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(f'<text x="{right - 170}" y="{top + 14 + 16 * row}" fill="{COLOURS[name]}">{name}</text>')
    title = f'<text x="{left}" y="{bottom + 38}">trials; time of the best so far over {what}</text>'
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 350" font-family="sans-serif" font-size="12">'
    return f'{head}<rect width="620" height="350" fill="white"/>{"".join(parts)}{title}</svg>\n'


def _top(rows: Sequence[dict[str, Any]]) -> float:
    """Where the curves' axis ends: at the heuristic's time, or so that all of MetaSchedule's trials below 4x show."""
    shown = [ratio for row in rows for course in row.get("courses", {}).get(METASCHEDULE, []) for ratio in course]
    return max([1.0, *(ratio for ratio in shown if ratio < 4)])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="dev", help="dev, held-out or a file")
    parser.add_argument("--only", action="append", default=[], help="a layer's name; repeatable")
    parser.add_argument("--target", default="native")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compare", action="append", default=[], metavar="LAYER|all", help="other strategies; repeatable"
    )
    parser.add_argument("--synthetic", action="store_true", help="known costs instead of measurements")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each strategy")
    parser.add_argument("--exhaustive", action="append", default=[], metavar="LAYER|all", help="sweep; repeatable")
    parser.add_argument(
        "--metaschedule",
        type=lambda text: metaschedule_courses(Path(text)),
        default={},
        metavar="FILE",
        help="its courses beside them",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/tuning"), help="folder of results and of the database"
    )
    options = parser.parse_args()
    target = targets.get_target(options.target)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    layers = suites.select(suites.load(options.suite), options.only)
    if options.synthetic:
        rows = [synthetic(layer, target, options) for layer in layers]
        text = curves(rows, options.trials, 1.25, "the least cost")
        (options.output / "synthetic.svg").write_text(text, encoding="utf-8")
        for name in STRATEGIES:
            ends = [min(course) for row in rows for course in row["courses"][name]]  # type: ignore[index]
            print(f"{name}: {geomean(ends):.3f} of the least cost, at worst {max(ends):.3f}, {len(ends)} runs")
        return 0
    for layer in layers:
        rows.append(study(layer, target, options))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        document = {"target": target.name, "trials": options.trials, "seed": options.seed, "layers": rows}
        (options.output / "study.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.output / "table.md").write_text(table(rows) + "\n", encoding="utf-8")
    if any("courses" in row for row in rows):
        (options.output / "curves.svg").write_text(
            curves(rows, options.trials, _top(rows), "the heuristic's"), encoding="utf-8"
        )
    print(table(rows), summary(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
