"""The time of whole networks' separable blocks, beside LiteRT, OpenVINO and ONNX Runtime.

    KERAS_BACKEND=jax python benchmarks/model_blocks.py --peer-python peers/bin/python [NETWORK ...]

Networks are those of keras.applications at their usual sizes with random weights, and the DS-CNN of keyword spotting.
Each kind of block is raced once, in one race for all networks, and counts as often as the network has it. The result is
a table, and with --output a folder's NAME.json (every figure) and NAME.md (the table).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.model_coverage import NETWORKS as BUILDERS
from sepcompile import bench
from sepcompile.bench import model_blocks
from sepcompile.bench.layers import geometry
from sepcompile.bench.model_blocks import Blocks
from sepcompile.bench.report import BenchReport
from sepcompile.bench.table import render_table
from tests.model.zoo import randomize

NETWORKS = ("DS-CNN", "MobileNet", "MobileNetV2", "Xception", "NASNetMobile")
PEERS = ("litert", "openvino-f32", "onnxruntime")
OURS = "sepcompile"


@dataclass(frozen=True)
class Total:
    """A network's blocks together: microseconds by library, each block as often as it occurs."""

    network: str
    threads: int
    blocks: int
    kinds: int
    share: float
    behind: int
    times: dict[str, float]

    @property
    def speedups(self) -> dict[str, float]:
        """How much longer each peer takes."""
        return {name: self.times[name] / self.times[OURS] for name in PEERS if name in self.times}


def totals(name: str, found: Blocks, report: BenchReport, threads: Iterable[int]) -> list[Total]:
    """A network's sums; a library that lacks a time for any block has no sum."""
    by_key = {(r.layer, r.peer, r.threads): r.min_us for r in report.results if r.status == "ok"}
    rows = []
    for count in threads:
        times: dict[str, float] = {}
        for peer in (OURS, *PEERS):
            each = [by_key.get((block.layer.name, peer, count)) for block in found.rows]
            if all(each):
                times[peer] = sum(block.count * (us or 0.0) for block, us in zip(found.rows, each, strict=True))
        behind = 0
        for block in found.rows:
            ours, *others = (by_key.get((block.layer.name, peer, count)) for peer in (OURS, *PEERS))
            behind += ours is not None and any(us is not None and us < ours for us in others)
        macs = sum(block.count * geometry(block.layer).macs for block in found.rows)
        amount = sum(block.count for block in found.rows)
        rows.append(Total(name, count, amount, len(found.rows), macs / found.macs, behind, times))
    return rows


def markdown(rows: Iterable[Total]) -> str:
    """The table of a page."""
    lines = [
        "| network | threads | blocks (kinds) | of its MACs | sepcompile ms | LiteRT | OpenVINO | ONNX Runtime | "
        "kinds behind the best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row.times.get(OURS)
        cells = [
            f"{row.times[name] / 1e3:.3f} ({row.speedups[name]:.2f}x)" if ours and name in row.times else "-"
            for name in PEERS
        ]
        own = f"{ours / 1e3:.3f}" if ours else "-"
        lines.append(
            f"| {row.network} | {row.threads} | {row.blocks} ({row.kinds}) | {row.share:.1%} | {own} | "
            f"{' | '.join(cells)} | {row.behind} |"
        )
    return "\n".join(lines) + "\n"


def write(folder: Path, stem: str, rows: list[Total], counts: dict[str, int], report: BenchReport) -> None:
    """The table, and every figure behind it."""
    from sepcompile.bench.output import to_json

    folder.mkdir(parents=True, exist_ok=True)
    head = (
        f"# Separable blocks of whole networks\n\n{report.machine.get('cpu', '')}; {report.created}. Milliseconds for "
        "all blocks of one image, the sum of each kind's shortest time by how often it occurs; in brackets the time "
        "against sepcompile's. `benchmarks/model_blocks.py` writes this page.\n\n"
    )
    (folder / f"{stem}.md").write_text(head + markdown(rows), encoding="utf-8")
    document = {"networks": [vars(row) for row in rows], "counts": counts, "race": to_json(report)}
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Races the blocks, prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers installed")
    parser.add_argument("--threads", type=int, action="append", help="repeatable; 1 if not given")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--budget-ms", type=float, default=20.0, help="of each library on each block in each round")
    parser.add_argument("--most", type=int, help="only so many kinds of blocks of each network")
    parser.add_argument("--output", type=Path, help="the folder for NAME.md and NAME.json")
    parser.add_argument("--name", default="model-blocks")
    options = parser.parse_args()
    unknown = set(options.networks) - set(BUILDERS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(BUILDERS)}")
    found = {name: blocks_of(name, options.most) for name in options.networks or NETWORKS}
    report = race([block for blocks in found.values() for block in blocks.rows], options)
    rows = [row for name, blocks in found.items() for row in totals(name, blocks, report, options.threads or [1])]
    render_table(report)
    print(markdown(rows))
    if options.output is not None:
        counts = {block.layer.name: block.count for blocks in found.values() for block in blocks.rows}
        write(options.output, options.name, rows, counts, report)


def blocks_of(name: str, most: int | None) -> Blocks:
    """A network's kinds of blocks."""
    found = model_blocks.find(randomize(BUILDERS[name]()), prefix=f"{name}.")
    for note in found.notes:
        print(note, file=sys.stderr)
    return Blocks(found.rows[:most], found.notes, found.macs)


def race(blocks: list[Any], options: argparse.Namespace) -> BenchReport:
    """One race for all of them."""
    return bench.run(
        bench.BenchOptions(
            blocks=blocks,
            suite="separable blocks of networks",
            peers=PEERS,
            peer_python=options.peer_python,
            threads=tuple(options.threads or [1]),
            rounds=options.rounds,
            budget_ms=options.budget_ms,
            progress=lambda message: print(message, file=sys.stderr),
        )
    )


if __name__ == "__main__":
    main()
