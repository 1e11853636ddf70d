"""``sepcompile demo``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sepcompile import demo
from sepcompile.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Sequence

_LAYER = '{"class_name": "DepthwiseConv2D", "config": {"kernel_size": 7, "padding": "same"}}'
_HEADER = ("layer", "input", "output", "library", "artifact", "compile", "error", "check", "call")


@click.command("demo", short_help="Compile, verify and time the layers of two networks.")
@click.option("--network", "names", multiple=True, type=click.Choice(demo.names()), help="Only this one (repeatable).")
@click.option("--output", "-o", "folder", metavar="FOLDER", default="build/demo", show_default=True)
@options.threads_option
@options.json_option
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], folder: str, threads: int | None, as_json: bool) -> None:
    """Compile the separable layers of two networks for this machine, verify each, run them and print a table.

    \b
    Example:
      sepcompile demo
      sepcompile demo --network keyword_spotting --threads 1
    """
    networks = [demo.network(name) for name in names or demo.names()]
    with output.progress(sum(len(network.layers) for network in networks), quiet=as_json) as step:
        rows = list(demo.run(networks, Path(folder), threads, step))
    if as_json:
        output.say_json([asdict(row) for row in rows])
    else:
        _print_text(networks, rows)
    ctx.exit(0 if all(row.passed for row in rows) else 1)


def _print_text(networks: Sequence[demo.Network], rows: Sequence[demo.Row]) -> None:
    for network in networks:
        mine = [row for row in rows if row.network == network.name]
        output.say(f"\n{network.title}: {len(mine)} separable layers for {mine[0].target}".lstrip("\n"))
        output.table(_HEADER, [_cells(row) for row in mine], right="library artifact compile error call")
        total = sum(row.call_seconds for row in mine)
        output.say(f"all {len(mine)} layers: {output.duration(total)} per image")
        output.say()
    _print_next(rows)


def _cells(row: demo.Row) -> tuple[str, ...]:
    return (
        row.layer,
        output.shape(row.input_shape),
        output.shape(row.output_shape),
        output.size(row.library_bytes),
        output.size(row.artifact_bytes),
        f"{row.compile_seconds:.2f} s",
        f"{row.error:.1e}",
        "passed" if row.passed else "FAILED",
        output.duration(row.call_seconds),
    )


def _print_next(rows: Sequence[demo.Row]) -> None:
    output.say("error: the largest difference from the layer in float64 arithmetic. call: median time of one call.")
    failed = [row.layer for row in rows if not row.passed]
    if failed:
        output.say(f"FAILED: {', '.join(failed)}")
    path, program = output.short(rows[0].path), output.program()
    output.say()
    output.say("What to type next:")
    output.say(f"  {program} inspect {path}")
    output.say(f"  {program} run {path} --benchmark --threads 1")
    output.say(f"  {program} compile '{_LAYER}' --input-shape None,56,56,96 --output build/mine")
    output.say(f"  {program} --help")
