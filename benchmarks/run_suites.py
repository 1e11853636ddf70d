"""Runs the suites beside every installed peer and writes JSON and HTML under ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sepcompile import bench  # noqa: E402 (works from a checkout too)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", action="append", help="repeatable; default: dev and held-out")
    parser.add_argument("--only", action="append", default=[], help="a layer's name; repeatable")
    parser.add_argument("--peer", action="append", default=[], help="repeatable; default: all that are installed")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--threads", action="append", type=int, help="repeatable; default: 1")
    parser.add_argument("--target", default="native")
    parser.add_argument("--isa", default="", help="limit peers to x86-64-v3 or x86-64-v2 where they can be")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--launches", type=int, default=1)
    parser.add_argument("--budget-ms", type=float, default=25.0)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--realtime", action="store_true", help="SCHED_FIFO for the peers (needs the right to it)")
    parser.add_argument("--no-ours", action="store_true", help="peers alone")
    parser.add_argument("--label", default="", help="part of the files' names, such as the machine")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def main() -> int:
    """Exit code 1 where an output was wrong."""
    given, wrong = arguments(), False
    for suite in given.suite or ["dev", "held-out"]:
        options = bench.BenchOptions(
            suite=suite, only=given.only, peers=given.peer, ours=not given.no_ours, peer_python=given.peer_python,
            target=given.target, threads=tuple(given.threads or (1,)), rounds=given.rounds, launches=given.launches,
            budget_ms=given.budget_ms, isa=given.isa, pin=given.pin, realtime=given.realtime,
            progress=lambda message: print(message, file=sys.stderr),
        )  # fmt: skip
        report = bench.run(options)
        bench.render_table(report)
        parts = (report.created[:10], given.label, Path(suite).stem, given.isa)
        stem = given.output / "-".join(filter(None, parts))
        bench.write_json(report, stem.with_name(stem.name + ".json"))
        bench.write_html(report, stem.with_name(stem.name + ".html"))
        wrong = wrong or bool(report.wrong())
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
