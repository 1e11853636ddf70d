"""Whole models: every block that compiles into an artifact of its own, and an index of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepcompile.api import Artifact, TargetName
    from sepcompile.compute.planar_record import CpuSchedule
    from sepcompile.frontend import ImportedLayer
    from sepcompile.frontend.model import Model, ModelReport, Unit
    from sepcompile.targets import Target

INDEX = "model.json"
FORMAT, FORMAT_VERSION = "sepcompile-model", 1


@dataclass(frozen=True)
class _Built:
    """A block that is ready to be compiled."""

    unit: Unit
    layer: ImportedLayer


def compile_model(
    model: object,
    input_shape: object = None,
    target: TargetName | Sequence[TargetName] = "native",
    weights: object = None,
    keras_version: str | None = None,
    schedule: CpuSchedule | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | bool = True,
    database: str | os.PathLike[str] | bool = True,
    emit: str | Sequence[str] = (),
    ram: int | str | None = None,
    flash: int | str | None = None,
    precision: str = "float32",
    step: Callable[[str, int], None] | None = None,
    within_models: bool = False,
) -> Artifact:
    """Compile every separable block of a model, each into ``<output>/<block name>/``, and write an index.

    Args:
        model: a ``.keras``, ``.h5`` or ``.hdf5`` file, the JSON of ``to_json()`` (a path, text or dict), or a live
            Keras model.
        input_shape: the shape of a model's one input, where the file leaves sizes open.
        weights: a weight file for a model without weights: ``.weights.h5``, ``.h5``, ``.npz`` or ``.safetensors``.
        layers: shell-style patterns; only blocks with a layer or an artifact name that matches one are compiled.
        step: called before each block with its name and how many there are.
        within_models: no block reaches across the edge of a nested model.
        target, keras_version, schedule, output, seed, cache, database, emit, ram, flash, precision: as for
            ``sepcompile.compile``; ``output`` is ``build`` if None, and the limits are for each block.

    Returns an ``Artifact`` whose ``parts`` are the blocks' artifacts. Raises as ``sepcompile.compile`` does.
    """
    from sepcompile import api
    from sepcompile.codegen.emit import Emit
    from sepcompile.errors import ScheduleError
    from sepcompile.frontend.model import read_model

    targets, extras = api.find_targets(target), Emit.of(emit, ram, flash)
    api.check_schedule(schedule)
    folder = api.output_folder(output, Path("build"))
    found = read_model(
        model,
        weights=weights,
        input_shape=input_shape,
        keras_version=keras_version,
        within_models=within_models,
    )
    built, skipped = _build(found, patterns(layers), seed, targets, precision)
    if schedule is not None and len(built) > 1:
        raise ScheduleError(f"{found.graph.label}: a schedule is for one block, and {len(built)} are compiled")
    _check_folder(folder)
    parts: list[Artifact] = []
    for item in built:
        if step is not None:
            step(item.unit.name, len(built))
        parts.append(api.write_layer(
            item.layer, targets, schedule, folder / item.unit.name, cache, database, extras, precision
        ))  # fmt: skip
    _write_index(folder, found, built)
    notes = tuple(dict.fromkeys((*skipped, *(note for part in parts for note in part.notes))))
    drawn = any(part.weights_drawn for part in parts)
    return api.Artifact(folder, found.graph.name, tuple(t.name for t in targets), drawn, notes, tuple(parts))


def read_blocks(
    model: object,
    input_shape: object = None,
    weights: object = None,
    keras_version: str | None = None,
    layers: str | Sequence[str] | None = None,
) -> list[ImportedLayer]:
    """The blocks of a model as ``compile_model`` compiles them; arguments and errors as there."""
    from sepcompile.frontend.model import read_model

    found = read_model(model, weights=weights, input_shape=input_shape, keras_version=keras_version)
    return [item.layer for item in _build(found, patterns(layers), 0, (), "float32")[0]]


def inspect_model(
    model: object, *, weights: object = None, input_shape: object = None, keras_version: str | None = None
) -> ModelReport:
    """Every layer of a model: what it is, its cost, into which artifact it would go or why into none.

    Arguments and errors as for ``compile_model``; nothing is compiled.
    """
    from sepcompile.frontend.model import read_model, report

    return report(read_model(model, weights=weights, input_shape=input_shape, keras_version=keras_version))


def patterns(layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """``layers`` as a tuple. Raises ``ConfigError``."""
    from sepcompile.errors import ConfigError

    given: Any = [] if layers is None else [layers] if isinstance(layers, str) else layers
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) and item for item in given):
        raise ConfigError(f"layers={layers!r}: expected a pattern such as 'block_*', or a list of them")
    return tuple(given)


def _build(
    model: Model, patterns: tuple[str, ...], seed: int, targets: tuple[Target, ...], precision: str
) -> tuple[list[_Built], list[str]]:
    """Every chosen block, and a note for each that cannot be built. One that was asked for is an error instead."""
    from sepcompile.codegen.variant import check_precision
    from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError

    built: list[_Built] = []
    skipped: list[str] = []
    for unit in model.select(patterns):
        try:
            layer = model.build(unit, seed)
            for target in targets:
                check_precision(layer.program, target, precision)
            built.append(_Built(unit, layer))
        except SepcompileError as cause:
            if patterns:
                raise
            skipped.append(f"{unit.name} is left out: {cause}")
    if not built and skipped:
        raise ConfigError(f"{model.graph.label}: nothing can be compiled; {skipped[0]}")
    if not built:
        accepted = "SeparableConv1D, SeparableConv2D, DepthwiseConv1D, DepthwiseConv2D and what surrounds them"
        raise UnsupportedError(f"{model.graph.label}: no layer of it is compiled; accepted: {accepted}")
    return built, skipped


def _check_folder(folder: Path) -> None:
    """A folder that holds something else is not written into."""
    from sepcompile.errors import ArtifactError

    try:
        foreign = folder.exists() and not folder.is_dir()
        foreign = foreign or (folder.is_dir() and any(folder.iterdir()) and (folder / "manifest.json").exists())
    except OSError as error:
        raise ArtifactError(f"output={str(folder)!r}: cannot be read: {error.strerror or error}") from error
    if foreign:
        raise ArtifactError(f"output={str(folder)!r} is a file or one layer's artifact; expected a folder for several")


def _write_index(folder: Path, model: Model, built: Sequence[_Built]) -> None:
    from sepcompile.errors import ArtifactError
    from sepcompile.frontend.model import report

    found = report(model)
    names = {item.unit.name for item in built}
    index = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": found.name,
        "source": found.label,
        "keras_version": found.keras_version,
        "artifacts": [_entry(model, item) for item in built],
        "layers": [
            {
                "layer": row.path,
                "class_name": row.class_name,
                "output_shape": row.output_shape,
                "macs": row.macs,
                "artifact": row.artifact if row.artifact in names else None,
                "reason": "not asked for" if row.artifact and row.artifact not in names else row.reason,
            }
            for row in found.layers
        ],
    }
    text = json.dumps(index, indent=1, ensure_ascii=True) + "\n"
    try:
        _replace(folder / INDEX, text)
    except OSError as error:
        raise ArtifactError(f"output={str(folder)!r}: cannot be written: {error.strerror or error}") from error


def _entry(model: Model, item: _Built) -> dict[str, Any]:
    graph, block, program = model.graph, item.unit.block, item.layer.program
    tensors = [("input", block.input, program.input), ("output", block.output, program.output)]
    if block.residual is not None:
        tensors.insert(1, ("residual", block.residual, program.output))
    return {
        "name": item.unit.name,
        "folder": item.unit.name,
        "layers": [graph.nodes[number].layer.path for number in block.calls],
    } | {
        what: {"tensor": graph.tensor_name(ref), "shape": spec.shape, "dtype": spec.dtype}
        for what, ref, spec in tensors
    }


def _replace(path: Path, text: str) -> None:
    """Readers find the old index or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{INDEX}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
