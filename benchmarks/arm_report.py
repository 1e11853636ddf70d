"""Counts both suites on emulated Arm cores and keeps the results: a JSON file per core and suite, and one page.

    python benchmarks/arm_report.py build/arm-report [--target cortex-a72] [--suite dev]

Needs what `sepcompile bench --emulate` needs (docs/arm.md). XNNPACK's counts are kept in the folder, so that a second
run counts our layers alone. The page is benchmarks/results/arm-emulated.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sepcompile.bench import BenchError, BenchOptions
from sepcompile.bench.emulate import main as emulate
from sepcompile.bench.emulate import report as reports
from sepcompile.bench.emulate.loops import KINDS, Figures

RESULTS = Path(__file__).parent / "results"
PAGE = "arm-emulated.md"
TARGETS, SUITES = ("cortex-a72", "cortex-a76"), ("dev", "held-out")
HEAD = """# Layers on emulated Arm cores, beside XNNPACK

Written by `benchmarks/arm_report.py`. {note}

Each figure is ours over XNNPACK's (LiteRT's wheel for aarch64, which takes the machine for the core), one thread,
caches warm; below 1 is better for us. *pointwise* and *depthwise* are the share of the core's multiply-add peak that
our inner loops reach in the first of the models named, in percent; *stack* their stores to and loads from the stack: a
store is a sum that found no register, a load without one a constant that was put there before the loop.
"""


def page(found: list[reports.EmulationReport]) -> str:
    """All reports as one page of tables."""
    return "\n".join([HEAD.format(note=reports.PROXY), *map(section, found)])


def section(report: reports.EmulationReport) -> str:
    """One core and suite: means, what lost, the table."""
    names = ["instructions", *(f"cycles, {model} model" for model in report.models), "L1 misses", "L2 misses"]
    means = report.geomeans().values()
    lines = [
        f"## {report.target}, {report.suite}\n",
        f"L1 {report.l1[0] // 1024} KB, {report.l1[1]} ways; L2 {report.l2[0] // 1024} KB, {report.l2[1]} ways; "
        f"{report.peer}; {', '.join(report.tools.values())}.\n",
        "Geometric means: " + ", ".join(f"{n} {value:.3f}" for n, value in zip(names, means, strict=True)) + ".\n",
        f"| layer | {' | '.join(names)} | pointwise | depthwise | stack |",
        "|---" * (len(names) + 4) + "|",
    ]
    for row in report.rows:
        ratios = [("-" if value is None else f"{value:.2f}") for value in row.ratios(report.models).values()]
        lines.append(f"| {row.layer} | {' | '.join([*ratios, *loops(row.ours.figures, report.models)])} |")
    return "\n".join(lines) + "\n"


def loops(figures: Figures | None, models: tuple[str, ...]) -> list[str]:
    """Percent of peak of each stage in the first model, and the stack stores and loads of both."""
    found = {loop.kind: loop for loop in figures.loops} if figures is not None else {}
    percents = [f"{found[k].peak_percent[models[0]]:.0f}" if k in found and models else "-" for k in KINDS]
    stores = sum(loop.stack_stores for loop in found.values())
    accesses = sum(loop.stack_accesses for loop in found.values())
    return [*percents, f"{stores} + {accesses - stores}" if found else "-"]


def main() -> int:
    """The command line; the exit code is 1 where a layer of ours failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where XNNPACK's counts are kept")
    parser.add_argument("--target", action="append", help=f"default: {', '.join(TARGETS)}")
    parser.add_argument("--suite", action="append", help=f"default: {', '.join(SUITES)}")
    arguments = parser.parse_args()
    found = []
    for target in arguments.target or TARGETS:
        for suite in arguments.suite or SUITES:
            options = BenchOptions(
                target=target, suite=suite, work_dir=arguments.folder / target,
                progress=lambda message: print(message, file=sys.stderr, flush=True),
            )  # fmt: skip
            try:
                found.append(emulate.run(options))
            except BenchError as error:
                sys.exit(f"error: {error}")
            reports.write_json(found[-1], RESULTS / f"arm-{target}-{suite}.json")
            (RESULTS / PAGE).write_text(page(found), encoding="utf-8")
    return 1 if any(report.wrong() for report in found) else 0


if __name__ == "__main__":
    sys.exit(main())
