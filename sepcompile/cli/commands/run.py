"""``sepcompile run``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from sepcompile.runtime.layer import Layer
    from sepcompile.runtime.results import Benchmark


@click.command("run", short_help="Run an artifact on an input, or time it.")
@click.argument("artifact")
@click.option("--input", "-i", "input_file", metavar="FILE", help="A .npy file (default: random numbers).")
@click.option("--residual", "residual_file", metavar="FILE", help="The second input, of a block that has one.")
@click.option("--output", "-o", "output_file", metavar="FILE", help="Where to write the result, as .npy.")
@click.option("--batch", type=click.IntRange(0), default=1, show_default=True, help="Images of a random input.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For a random input.")
@options.threads_option
@click.option("--variant", metavar="TARGET", help="The variant to use instead of the best for this machine.")
@click.option("--repeat", type=click.IntRange(1), help="Time this many calls.")
@click.option("--benchmark", is_flag=True, help="Time calls for about half a second.")
@options.json_option
def command(
    artifact: str,
    input_file: str | None,
    residual_file: str | None,
    output_file: str | None,
    batch: int,
    seed: int,
    threads: int | None,
    variant: str | None,
    repeat: int | None,
    benchmark: bool,
    as_json: bool,
) -> None:
    """Run ARTIFACT, a compiled layer's folder, on an input.

    \b
    Example:
      sepcompile run build/conv1 --input x.npy --output y.npy
      sepcompile run build/conv1 --benchmark --threads 1
    """
    if repeat and benchmark:
        raise click.UsageError("--repeat and --benchmark exclude each other")
    from sepcompile import api

    layer = api.load(artifact, threads=threads, variant=variant)
    inputs = _inputs(layer, input_file, residual_file, batch, seed)
    call: Callable[..., np.ndarray] = layer  # of one input or two
    x, y = inputs[0], call(*inputs)
    if output_file is not None:
        _write(output_file, y)
    timed = _time(layer, inputs, repeat) if repeat else layer.benchmark(x=x) if benchmark else None
    report = _report(layer, x, y, timed)
    if as_json:
        output.say_json(report | {"path": artifact, "written": output_file})
    else:
        _print_text(report, output_file, timed)


def _inputs(
    layer: Layer, input_file: str | None, residual_file: str | None, batch: int, seed: int
) -> tuple[np.ndarray, ...]:
    """What the layer is called with: random numbers where no file is given."""
    from sepcompile.errors import InputError

    if residual_file is not None and not layer.takes_residual:
        raise InputError(f"--residual {residual_file!r}: layer {layer.name!r} has one input")
    x = None if input_file is None else _read(input_file, "--input")
    count = x.shape[0] if x is not None and x.ndim else batch
    inputs = list(layer.random_inputs(count, seed))
    if x is not None:
        inputs[0] = x
    if residual_file is not None:
        inputs[1] = _read(residual_file, "--residual")
    return tuple(inputs)


def _read(path: str, option: str) -> np.ndarray:
    import numpy as np

    from sepcompile.errors import InputError

    try:
        with Path(path).open("rb") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{option} {path!r}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise InputError(f"{option} {path!r}: not an array in .npy form: {error}") from error
    return array


def _write(path: str, y: np.ndarray) -> None:
    import numpy as np

    from sepcompile.errors import InputError

    try:
        with Path(path).open("wb") as file:
            np.save(file, y, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--output {path!r}: cannot be written: {error}") from error


def _time(layer: Layer, inputs: tuple[np.ndarray, ...], repeat: int) -> Benchmark:
    from sepcompile.runtime.results import Benchmark

    dtypes = (layer.input_dtype, layer.dtype)  # a residual is like the output
    ready = [x.astype(dtype, order="C", copy=False) for x, dtype in zip(inputs, dtypes, strict=False)]
    call: Callable[..., np.ndarray] = layer
    y = call(*ready)
    times = []
    for _ in range(repeat):
        start = perf_counter()
        call(*ready, y)
        times.append(perf_counter() - start)
    return Benchmark.of(times, batch=ready[0].shape[0], threads=layer.threads, variant=layer.variant)


def _report(layer: Layer, x: np.ndarray, y: np.ndarray, timed: Benchmark | None) -> dict[str, Any]:
    import numpy as np

    with np.errstate(all="ignore"):
        wide = y.astype(np.float64)
        values = (wide.min(), wide.max(), wide.mean()) if y.size else (np.nan,) * 3
    return {
        "name": layer.name,
        "variant": layer.variant,
        "threads": layer.threads,
        "input": {"shape": x.shape, "dtype": x.dtype.name},
        "output": {"shape": y.shape, "dtype": y.dtype.name},
        "min": float(values[0]),
        "max": float(values[1]),
        "mean": float(values[2]),
        "benchmark": None if timed is None else {"median": timed.median, "best": timed.best, "mean": timed.mean,
                                                 "calls": timed.calls},
    }  # fmt: skip


def _print_text(report: dict[str, Any], output_file: str | None, timed: Benchmark | None) -> None:
    x, y = report["input"], report["output"]
    rows: list[tuple[str, object]] = [
        ("layer", f"{report['name']}, {report['variant']}, {report['threads']} thread(s)"),
        ("input", f"{x['dtype']} {output.shape(x['shape'])}"),
        ("output", f"{y['dtype']} {output.shape(y['shape'])}"),
        ("values", "min {min:.6g}, max {max:.6g}, mean {mean:.6g}".format_map(report)),
    ]
    if output_file is not None:
        rows.append(("written", output_file))
    if timed is not None:
        best, calls = output.duration(timed.best), timed.calls
        rows.append(("time", f"{output.duration(timed.median)} per call (median of {calls}; best {best})"))
    output.fields(rows)
