"""``sepcompile inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import models, options, output

if TYPE_CHECKING:
    from sepcompile.runtime.manifest import Manifest, VariantEntry

_TEXTS = ("ir", "tir", "asm")


@click.command("inspect", short_help="Look into an artifact, or into what a layer becomes.")
@click.argument("path", metavar="PATH_OR_LAYER")
@click.option("--ir", is_flag=True, help="The program, stage by stage.")
@click.option("--tir", is_flag=True, help="The scheduled kernels (of a layer: it is compiled for this).")
@click.option("--asm", is_flag=True, help="The kernels' assembly (of a layer).")
@options.layer_options
@click.option(
    "--target", default=None, help="Of a layer: compile for it (default: native). Of an artifact: its variant."
)
@options.json_option
def command(path: str, ir: bool, tir: bool, asm: bool, as_json: bool, target: str | None, **layer: Any) -> None:
    """Look into an artifact's folder, a model, or into what a layer's config becomes.

    PATH_OR_LAYER is an artifact, or a LAYER or a model as `sepcompile compile` takes it. Of a model, every layer is
    listed: what it is, its cost, and the artifact it would go into or why it goes into none.

    \b
    Example:
      sepcompile inspect build/conv1
      sepcompile inspect model.keras
      sepcompile inspect layer.json --input-shape None,112,112,32 --asm --target x86-64-v3
    """
    wanted = tuple(name for name, flag in zip(_TEXTS, (ir, tir, asm), strict=True) if flag)
    if _is_artifact(path):
        given = [f"--{name.replace('_', '-')}" for name, value in layer.items() if value is not None]
        if given:
            raise click.UsageError(f"{given[0]} is for a layer; {path!r} is an artifact")
        _inspect_artifact(path, wanted, target, as_json)
    elif models.is_model(source := options.read_layer_argument(path)):
        if wanted or target or layer["schedule"]:
            raise click.UsageError("a model is listed layer by layer; look into one layer's config, or its artifact")
        del layer["schedule"]
        models.inspect_model(source, as_json, **layer)
    else:
        _inspect_layer(source, wanted, target or "native", as_json, **layer)


def _is_artifact(path: str) -> bool:
    try:
        return Path(path).is_dir() or Path(path).name == "manifest.json"
    except (OSError, ValueError):
        return False


# ---- artifacts -----------------------------------------------------------------------------------------------------


def _inspect_artifact(path: str, wanted: tuple[str, ...], target: str | None, as_json: bool) -> None:
    if "tir" in wanted or "asm" in wanted:
        raise click.UsageError("--tir and --asm come from compiling: give the layer's config instead of the artifact")
    from sepcompile import api

    manifest = api.manifest(Path(path).parent if Path(path).name == "manifest.json" else path)
    variants = _variants(manifest, target)
    if as_json:
        document = json.loads((manifest.path / "manifest.json").read_bytes())
        document["variants"] = [v for v in document["variants"] if v["target"] in {entry.target for entry in variants}]
        output.say_json(document | {"path": manifest.path})
    elif "ir" in wanted:
        output.say_text(manifest.ir)
    else:
        _print_manifest(manifest, variants)


def _variants(manifest: Manifest, target: str | None) -> list[VariantEntry]:
    from sepcompile.errors import ArtifactError

    found = [variant for variant in manifest.variants if target in (None, variant.target)]
    if not found:
        has = ", ".join(variant.target for variant in manifest.variants)
        raise ArtifactError(f"{manifest.path}: no variant {target!r}; it has {has}")
    return found


def _title(name: str, config: object, generation: object) -> str:
    """A layer's name, its class and who wrote its config, as far as known: a manifest may leave any of it out."""
    cls = config.get("class_name") if isinstance(config, dict) else None
    source = {"keras2": "Keras 2", "keras3": "Keras 3", "r": "R"}.get(str(generation))
    return name + (f", {cls}" if cls else "") + (f" of {source}" if source else "")


def _print_manifest(manifest: Manifest, variants: list[VariantEntry]) -> None:
    nbytes = sum(entry.nbytes for entry in manifest.files.values())
    rows: list[tuple[str, object]] = [
        ("artifact", output.short(manifest.path)),
        ("layer", _title(manifest.name, manifest.layer.get("config"), manifest.layer.get("generation"))),
        ("input", f"{manifest.input.name} {output.shape(manifest.input.shape)}"),
        ("output", f"{manifest.output.name} {output.shape(manifest.output.shape)}"),
        ("weights", "drawn from the initializers" if manifest.weights_drawn else "given"),
        ("size", f"{output.size(nbytes)} in {len(manifest.files)} files"),
        ("made by", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))),
    ]
    if manifest.residual is not None:
        added = f"{manifest.residual.dtype.name} {output.shape(manifest.residual.shape)}, added to the result"
        rows.insert(3, ("residual", added))
    notes = manifest.layer.get("notes")
    rows += [("note", note) for note in notes] if isinstance(notes, list) else []
    output.fields(rows)
    output.say()
    for variant in variants:
        library = f"{variant.library}, {output.size(manifest.files[variant.library].nbytes)}"
        knobs = " ".join(f"{name}={value}" for name, value in sorted(variant.schedule.items()))
        steps = " ".join(f"{step.symbol}[{step.tasks} tasks]" for step in variant.plan.steps)
        output.fields(
            [
                ("variant", variant.target),
                ("  needs", _needs(variant)),
                ("  library", library),
                *(output.static_library(variant.c_api) if variant.c_api else []),
                ("  kernels", steps),
                *([("  multiplies", variant.cuda.precision)] if variant.cuda else []),
                ("  schedule", f"{knobs} ({variant.schedule_source})"),
            ]
        )


def _needs(variant: VariantEntry) -> str:
    if variant.cuda is None:
        return f"{variant.arch}: {' '.join(variant.requires)}"
    return f"{variant.arch}: {' '.join(image.arch for image in variant.cuda.images)}"


# ---- layers --------------------------------------------------------------------------------------------------------


def _inspect_layer(
    source: str | bytes,
    wanted: tuple[str, ...],
    target: str,
    as_json: bool,
    *,
    input_shape: list[int | None] | None,
    weights: str | None,
    keras_version: str | None,
    schedule: str | None,
) -> None:
    report = _describe(source, input_shape, weights, keras_version)
    if "tir" in wanted or "asm" in wanted:
        from sepcompile import api

        record = options.read_schedule(schedule)
        with output.spinner(f"compiling for {target}"):
            texts = api.compile_texts(source, input_shape, target, weights, keras_version, record)
        report |= {name: texts[name] for name in wanted}
    if as_json:
        output.say_json(report)
        return
    for name in wanted:
        output.say_text(report[name])
    if not wanted:
        weights = ", ".join(f"{name} {output.shape(sizes)}" for name, sizes in report["weights"].items())
        output.fields(
            [
                ("layer", _title(report["name"], report["config"], report["generation"])),
                ("weights", weights),
                *(("note", note) for note in report["notes"]),
            ]
        )
        output.say_text(report["ir"])


def _describe(
    source: str | bytes, input_shape: list[int | None] | None, weights: str | None, keras_version: str | None
) -> dict[str, Any]:
    """What a layer is, without compiling it."""
    from sepcompile.frontend import read_layer
    from sepcompile.ir.printer import to_text

    found = read_layer(source, input_shape=input_shape, weights=weights, keras_version=keras_version)
    program = found.program
    return {
        "name": program.name,
        "generation": found.generation,
        "keras_version": found.keras_version,
        "input": {"shape": program.input.shape, "dtype": program.input.dtype},
        "output": {"shape": program.output.shape, "dtype": program.output.dtype},
        "weights": {name: array.shape for name, array in found.weights.items()},
        "weights_drawn": found.weights_drawn,
        "config": found.config,
        "ignored": found.ignored,
        "notes": found.notes,
        "ir": to_text(program),
    }
