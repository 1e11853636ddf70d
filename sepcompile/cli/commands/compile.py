"""``sepcompile compile``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import models, options, output

if TYPE_CHECKING:
    from sepcompile.api import Artifact
    from sepcompile.runtime.manifest import Manifest


@click.command("compile", short_help="Compile a layer into an artifact folder.")
@click.argument("layer")
@options.layer_options
@click.option("--target", "targets", multiple=True, help="Target name or TOML file; repeat it or separate by commas.")
@click.option(
    "--layer", "layers", multiple=True, metavar="PATTERN", help="Of a model: only layers so named, such as 'block_*'."
)
@click.option("--output", "-o", metavar="FOLDER", help="The artifact's folder (default: build/<layer name>).")
@click.option(
    "--emit", "emits", multiple=True, type=click.Choice(["c-api"]),
    help="Add a static library, header, example and CMake file for C programs.",
)  # fmt: skip
@click.option("--ram", metavar="BYTES", help="The most RAM that a static library may need, such as 64K or 1M.")
@click.option("--flash", metavar="BYTES", help="The most flash that a static library may take.")
@click.option(
    "--precision", type=click.Choice(["float32", "tf32"]), default="float32", show_default=True,
    help="What float32 matrix products multiply; tf32 lets CUDA targets round to 10 bits of mantissa.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For weights that are drawn.")
@click.option("--no-cache", is_flag=True, help="Compile anew, and keep nothing.")
@options.json_option
def command(
    layer: str,
    input_shape: list[int | None] | None,
    weights: str | None,
    keras_version: str | None,
    schedule: str | None,
    targets: tuple[str, ...],
    layers: tuple[str, ...],
    output: str | None,
    emits: tuple[str, ...],
    ram: str | None,
    flash: str | None,
    precision: str,
    seed: int,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Compile LAYER into an artifact folder, or a model's separable blocks into one folder each.

    LAYER is a JSON file with a Keras layer config, the JSON text itself, or - for standard input; or a model: a .keras
    or .h5 file, or the JSON of to_json().

    \b
    Example:
      sepcompile compile layer.json --input-shape None,112,112,32 --weights conv1.npz
      sepcompile compile layer.json --target x86-64-v2,x86-64-v4 --output build/conv1
      sepcompile compile model.keras --layer 'block_1_*' -o build/
      sepcompile compile layer.json --target cortex-m4 --ram 128K --flash 512K
    """
    from sepcompile import api

    names = options.split_names(targets or ("native",))
    record = options.read_schedule(schedule)
    source = options.read_layer_argument(layer)
    if models.is_model(source):
        models.compile_model(
            source, as_json, input_shape=input_shape, target=names, weights=weights, keras_version=keras_version,
            schedule=record, output=output, layers=layers, seed=seed, cache=not no_cache, emit=emits, ram=ram,
            flash=flash, precision=precision,
        )  # fmt: skip
        return
    if layers:
        raise click.UsageError("--layer is for a model; LAYER is one layer")
    start = time.perf_counter()
    with _spinner(names):
        artifact = api.compile(
            source, input_shape, names, weights, keras_version, precision,
            schedule=record, output=output, seed=seed, cache=not no_cache, emit=emits, ram=ram, flash=flash,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    manifest = api.manifest(artifact.path)
    if as_json:
        _print_json(artifact, manifest, seconds)
    else:
        _print_text(artifact, manifest, seconds)


def _spinner(names: list[str]) -> Any:
    return output.spinner(f"compiling for {', '.join(names)}")


def _print_json(artifact: Artifact, manifest: Manifest, seconds: float) -> None:
    output.say_json(
        {
            "path": artifact.path,
            "name": artifact.name,
            "targets": artifact.targets,
            "input": {"shape": manifest.input.shape, "dtype": manifest.input.name},
            "output": {"shape": manifest.output.shape, "dtype": manifest.output.name},
            "weights_drawn": artifact.weights_drawn,
            "notes": artifact.notes,
            "variants": [
                {
                    "target": variant.target,
                    "library": variant.library,
                    "library_bytes": manifest.files[variant.library].nbytes,
                    "schedule": variant.schedule,
                    "schedule_source": variant.schedule_source,
                    "c_api": None if variant.c_api is None else asdict(variant.c_api),
                }
                for variant in manifest.variants
            ],
            "bytes": sum(entry.nbytes for entry in manifest.files.values()),
            "seconds": seconds,
        }
    )


def _print_text(artifact: Artifact, manifest: Manifest, seconds: float) -> None:
    folder = output.short(artifact.path)
    output.say(f"compiled {artifact.name} to {folder} in {output.duration(seconds)}")
    rows: list[tuple[str, object]] = [
        ("  input", f"{manifest.input.name} {output.shape(manifest.input.shape)}"),
        ("  output", f"{manifest.output.name} {output.shape(manifest.output.shape)}"),
    ]
    for variant in manifest.variants:
        if not variant.bare:
            rows.append(("  library", f"{variant.library}, {output.size(manifest.files[variant.library].nbytes)}"))
        rows += output.static_library(variant.c_api) if variant.c_api else []
    rows += [("  note", note) for note in artifact.notes]
    output.fields(rows)
    if all(variant.bare for variant in manifest.variants):
        output.say(f"next: link {folder}/{manifest.variants[0].library}; {folder}/README.md says how")
    else:
        output.say(f"next: {output.program()} run {folder} --benchmark")
