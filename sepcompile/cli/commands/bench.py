"""``sepcompile bench``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import options, output

if TYPE_CHECKING:
    from sepcompile.bench.options import BenchOptions
    from sepcompile.bench.report import BenchReport


@click.command("bench", short_help="Race compiled layers against other libraries on this machine.")
@click.argument("model", required=False)
@click.option("--model", "model_option", metavar="PATH", help="The same as MODEL.")
@click.option("--every-block", is_flag=True, help="Of MODEL also the blocks that are like another one.")
@click.option("--suite", default="dev", metavar="NAME|FILE", help="dev, held-out, or a JSON file of layers.")
@click.option("--layer", "only", multiple=True, metavar="NAME", help="Only this row, or pattern of MODEL; repeatable.")
@click.option("--peer", "peers", multiple=True, metavar="NAME", help="Only this peer; repeatable.")
@click.option("--peer-python", default=sys.executable, metavar="PATH", help="The Python that has the peers installed.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1,), help="Thread count; repeatable.")
@click.option("--target", default="native", metavar="TARGET", help="What our own layers are compiled for.")
@click.option("--isa", default="", metavar="LEVEL", help="Limit peers and ours to x86-64-v2 or x86-64-v3.")
@click.option("--rounds", type=click.IntRange(1), default=8, show_default=True, help="Interleaved rounds.")
@click.option("--launches", type=click.IntRange(1), default=1, show_default=True, help="Process launches.")
@click.option("--pin", is_flag=True, help="Confine every process to as many CPUs as it has threads.")
@click.option("--realtime", is_flag=True, help="SCHED_FIFO, where it is allowed.")
@click.option("--emulate", is_flag=True, help="Count instructions and cache misses under emulation; no times.")
@click.option("--sysroot", type=click.Path(path_type=Path), help="For --emulate: what `make arm-sysroot` made.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write a page with charts and the roofline.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write a page of searches and knobs.")
@click.option("--output", "json_file", type=click.Path(path_type=Path), help="Write every figure as JSON.")
@options.json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str | None,
    model_option: str | None,
    every_block: bool,
    emulate: bool,
    sysroot: Path | None,
    html_file: Path | None,
    report_file: Path | None,
    json_file: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Time the layers of a suite, or the blocks of MODEL, beside every installed peer, in interleaved rounds.

    MODEL is a .keras or .h5 file, or the JSON of to_json(). Each kind of separable block in it is compiled and raced as
    a whole; peers get it with BatchNormalization folded. Outputs are checked.

    Peers: LiteRT, OpenVINO, ONNX Runtime, PyTorch, torch.compile, JAX, ncnn, MNN. The exit code is 1 if any output was
    wrong.

    With --emulate nothing is timed: the layers of --target run under qemu-user beside LiteRT's XNNPACK for the same
    core, and what is compared are instructions, cycles of a model, and cache misses, on one thread.

    \b
    Example:
      sepcompile bench --suite dev --layer mnv1_b5 --threads 1 --threads 2
      sepcompile bench --target cortex-a72 --emulate
      sepcompile bench model.keras --layer 'block_1_*'
      sepcompile bench --suite dev --report report.html
    """
    source = model or model_option
    if model and model_option:
        raise click.UsageError("MODEL is given twice")
    if source and emulate:
        raise click.UsageError("--emulate is for the layers of a suite")
    if emulate and (html_file or report_file):
        raise click.UsageError("--html and --report are pages of times; --emulate has none, but --output and --json")
    if sysroot is not None and not emulate:
        raise click.UsageError("--sysroot is for --emulate")
    from sepcompile import bench
    from sepcompile.bench import model_blocks
    from sepcompile.bench.output import to_json

    try:
        if source:
            found = model_blocks.find(source, values.pop("only"), every=every_block)
            for note in found.notes:
                click.echo(note, err=True)
            values |= {"blocks": found.rows, "suite": f"blocks of {Path(source).name}"}
        asked = bench.BenchOptions(**values, progress=lambda message: click.echo(message, err=True))
        if emulate:
            ctx.exit(_emulate(asked, sysroot, json_file, as_json))
        report = bench.run(asked) if report_file is None else _run_and_report(asked, report_file)
        if json_file is not None:
            bench.write_json(report, json_file)
        if html_file is not None:
            bench.write_html(report, html_file)
    except bench.BenchError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'output'}: {error.strerror or error}") from error
    if as_json:
        output.say_json(to_json(report))
    else:
        bench.render_table(report)
    ctx.exit(1 if report.wrong() else 0)


def _run_and_report(asked: BenchOptions, path: Path) -> BenchReport:
    """Race, and write the page while the artifacts are there."""
    from sepcompile.bench import html, main, tuned

    with main.work_folder(asked) as folder:
        report = main.run(replace(asked, work_dir=folder))
        html.write_report(report, tuned.collect(asked, report.layers, folder), path)
    return report


def _emulate(asked: BenchOptions, sysroot: Path | None, json_file: Path | None, as_json: bool) -> int:
    """Count instead of timing; returns the exit code."""
    from sepcompile.bench.emulate import main, report, table
    from sepcompile.bench.emulate import sysroot as sysroots

    found = main.run(asked, sysroot or sysroots.DEFAULT)
    if json_file is not None:
        report.write_json(found, json_file)
    if as_json:
        output.say_json(found.to_json())
    else:
        table.render(found)
    return 1 if found.wrong() else 0
