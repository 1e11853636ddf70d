"""The public functions: compile a layer or a model, load an artifact, look into one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepcompile.codegen.emit import Emit
    from sepcompile.codegen.plan import Compiled
    from sepcompile.compute.planar_record import CpuSchedule
    from sepcompile.frontend import ImportedLayer
    from sepcompile.frontend.model import ModelReport
    from sepcompile.runtime.layer import Layer
    from sepcompile.runtime.manifest import Manifest
    from sepcompile.runtime.results import VerifyReport
    from sepcompile.runtime.signature import PublicKey
    from sepcompile.targets import Target

TargetName = str | os.PathLike[str]

_PRECISIONS = ("float32", "tf32")


@dataclass(frozen=True)
class Artifact:
    """A written artifact. ``notes`` are remarks for the user, such as that the weights were drawn.

    Of a model, ``path`` is the folder that holds the artifacts of its blocks, which are in ``parts``.
    """

    path: Path
    name: str
    targets: tuple[str, ...]
    weights_drawn: bool
    notes: tuple[str, ...]
    parts: tuple[Artifact, ...] = ()

    def load(self, threads: int | None = None) -> Layer:
        """The layer, ready to be called; see ``load``. Of a model, each of its ``parts`` is loaded by itself."""
        return load(self.path, threads=threads)


def compile(
    layer: object,
    input_shape: object = None,
    target: TargetName | Sequence[TargetName] = "native",
    weights: object = None,
    keras_version: str | None = None,
    precision: str = "float32",
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
) -> Artifact:
    """Compile one layer into an artifact folder, or the separable blocks of a model into one folder each.

    Args:
        layer: a Keras config (``get_config()`` or ``{"class_name", "config"}``), JSON text, a JSON file's path, or a
            live Keras layer. Or a model: a ``.keras`` or ``.h5`` file, JSON of ``to_json()``, or a live Keras model;
            see ``sepcompile.models.compile_model``.
        input_shape: Keras's shape with the batch first, None for a dynamic batch; optional where the source says it.
        target: a name from ``list_targets()``, ``"native"``, the path of a target file, or several of them, one variant
            each in the same artifact.
        weights: a dict by Keras's names, a list in Keras's order, a .npz, .safetensors, .h5, .weights.h5 or .keras
            file's path, or None: then they are drawn from the config's initializers with ``seed``, and the artifact
            says so. Of Keras's own files, the layer of the config's name is taken, or the only one that it can be.
        keras_version: "2", "3", "3.15": only where the source does not say and it matters.
        precision: what the kernel computes in. Input and output follow the layer's dtype policy. ``"tf32"`` lets CUDA
            targets round what a float32 matrix product multiplies to TF32 (10 bits of mantissa); sums stay float32.
        schedule: overrides the tuning database and the heuristic, for every target.
        output: the artifact's folder; ``build/<layer name>`` if None. Of a model, the folder of its artifacts;
            ``build`` if None.
        layers: of a model, patterns such as ``"block_*"`` that pick some of its layers.
        cache: where compiled kernels are kept: True for the user's cache folder, a path, or False.
        database: where ``tune`` has stored schedules: True for the user's own file, a path, or False.
        emit: ``"c-api"`` adds a static library with the weights inside for each CPU target, a header, an example and a
            CMake file. Targets without an operating system always have it, and nothing else.
        ram, flash: the most that each static library may take, in bytes, or as "64K", "1M".

    Raises:
        ConfigError, WeightError, UnsupportedError, TargetError, ScheduleError: the input cannot be compiled as given.
        BudgetError: more RAM or flash is needed than ``ram`` or ``flash``.
        CompileError: code generation failed. ArtifactError: ``output`` cannot be written.
    """
    from sepcompile.codegen.emit import Emit
    from sepcompile.errors import ConfigError, UnsupportedError
    from sepcompile.frontend import read_layer
    from sepcompile.frontend.model import is_model

    if precision not in _PRECISIONS:
        raise UnsupportedError(f"precision={precision!r} is not supported; accepted: {', '.join(_PRECISIONS)}")
    if is_model(layer):
        from sepcompile.models import compile_model

        return compile_model(
            layer, input_shape, target, weights, keras_version, schedule, output,
            layers=layers, seed=seed, cache=cache, database=database, emit=emit, ram=ram, flash=flash,
            precision=precision,
        )  # fmt: skip
    if layers is not None:
        raise ConfigError(f"layers={layers!r} is for a model; one layer was given")
    targets, extras = find_targets(target), Emit.of(emit, ram, flash)
    check_schedule(schedule)
    imported = read_layer(layer, input_shape=input_shape, weights=weights, keras_version=keras_version, seed=seed)
    folder = output_folder(output, Path("build") / imported.program.name)
    return write_layer(imported, targets, schedule, folder, cache, database, extras, precision)


def compile_texts(
    layer: object,
    input_shape: object = None,
    target: TargetName = "native",
    weights: object = None,
    keras_version: str | None = None,
    schedule: CpuSchedule | None = None,
) -> dict[str, str]:
    """What a layer becomes on the way to machine code: the texts ``ir``, ``tir`` and ``asm``.

    Arguments and errors as for ``compile``; nothing is written.
    """
    from sepcompile.frontend import read_layer
    from sepcompile.ir.printer import to_text

    chosen = find_targets(target)
    check_schedule(schedule)
    imported = read_layer(layer, input_shape=input_shape, weights=weights, keras_version=keras_version)
    (compiled,), _ = _compiled(imported, chosen, schedule, cache=False, database=True, texts=True)
    return {"ir": to_text(imported.program), "tir": compiled.tir, "asm": compiled.assembly}


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    selftest: bool = False,
    variant: str | None = None,
    require_signature: PublicKey | Sequence[PublicKey] | None = None,
) -> Layer:
    """Load an artifact: the best variant that this machine can run. TVM is not imported.

    Args:
        path: the artifact's folder.
        threads: threads that one call may use; None for as many as this process has CPUs.
        selftest: also run the artifact's self-test.
        variant: the target name of the variant to use instead of the best.
        require_signature: an Ed25519 public key (64 hexadecimal digits, PEM text, or a PEM file's path), or several:
            one of them must have signed the artifact (``sign``).

    Raises:
        ArtifactError: damaged, of an unknown format version, not for this machine, or not signed as required.
        InputError: ``require_signature`` is no public key.
    """
    from sepcompile.runtime.loader import load as load_artifact

    _refuse_model(path)
    return load_artifact(path, threads, selftest, variant, require_signature)


def _refuse_model(path: str | os.PathLike[str]) -> None:
    """A folder of several artifacts is not one: says which there are."""
    from sepcompile.errors import ArtifactError

    try:
        folder = Path(path)
    except TypeError:
        return  # the loader says what it takes
    if (folder / "model.json").is_file() and not (folder / "manifest.json").exists():
        found = sorted(item.parent.name for item in folder.glob("*/manifest.json"))
        some = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise ArtifactError(f"{folder} holds the artifacts of a model; expected one of them: {some}")


def verify(
    path: str | os.PathLike[str], require_signature: PublicKey | Sequence[PublicKey] | None = None
) -> VerifyReport:
    """Check everything in an artifact and run the self-test of each variant that this machine can run.

    ``require_signature`` as for ``load``. Raises ``ArtifactError`` for damage; a failed self-test is in the report.
    """
    from sepcompile.runtime.loader import verify as verify_artifact

    _refuse_model(path)
    return verify_artifact(path, require_signature=require_signature)


def inspect(source: object) -> Manifest | ModelReport:
    """Look into an artifact or a model.

    Returns the checked manifest of an artifact's folder, or a report on every layer of a model (as ``compile`` takes
    it): what it is, whether it compiles, and why not. Raises ``ArtifactError`` for an artifact, ``ConfigError``,
    ``WeightError`` or ``UnsupportedError`` for a model.
    """
    from sepcompile.errors import ConfigError

    if isinstance(source, str | os.PathLike) and _is_folder(source):
        return manifest(source)  # without the frontend, which a device need not have
    from sepcompile.frontend.model import is_model

    if is_model(source):
        from sepcompile.models import inspect_model

        return inspect_model(source)
    if isinstance(source, str | os.PathLike):
        return manifest(source)
    raise ConfigError(f"inspect({type(source).__name__}): expected an artifact's folder or a model")


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False  # a text too long to be a path


def manifest(path: str | os.PathLike[str]) -> Manifest:
    """The checked manifest of an artifact's folder. Raises ``ArtifactError``."""
    from sepcompile.runtime.loader import read_manifest

    _refuse_model(path)
    return read_manifest(path)


def list_targets() -> tuple[Target, ...]:
    """Every target that ships with sepcompile."""
    from sepcompile import targets

    return targets.list_targets()


def find_targets(target: TargetName | Sequence[TargetName]) -> tuple[Target, ...]:
    """The targets behind ``compile``'s argument. Raises ``TargetError``."""
    from sepcompile.errors import TargetError
    from sepcompile.targets import get_target

    single = isinstance(target, str | os.PathLike)
    names: Any = [target] if single else target
    if not isinstance(names, list | tuple) or not names:
        raise TargetError(f"target={target!r} must be a name, a path, or a list of them")
    found = {chosen.name: chosen for chosen in map(get_target, names)}
    return tuple(found.values())


def output_folder(output: str | os.PathLike[str] | None, default: Path) -> Path:
    """The folder that the argument ``output`` names. Raises ``ArtifactError``."""
    from sepcompile.errors import ArtifactError

    if output is None:
        return default
    name = os.fspath(output) if isinstance(output, str | os.PathLike) else None
    if not isinstance(name, str) or "\0" in name:
        raise ArtifactError(f"output={output!r}: expected the path of a folder")
    return Path(name)


def check_schedule(schedule: object) -> None:
    """Raises ``ScheduleError`` where ``schedule`` is neither None nor a record."""
    from sepcompile.compute.cuda_record import CudaSchedule
    from sepcompile.compute.planar_record import PlanarSchedule
    from sepcompile.compute.record import Schedule
    from sepcompile.errors import ScheduleError

    if not isinstance(schedule, Schedule | PlanarSchedule | CudaSchedule | None):
        names = "Schedule, PlanarSchedule, CudaSchedule"
        raise ScheduleError(f"schedule={schedule!r}: expected None or a record ({names}); from_json reads one")


def write_layer(
    imported: ImportedLayer,
    targets: tuple[Target, ...],
    schedule: CpuSchedule | None,
    output: Path,
    cache: str | os.PathLike[str] | bool,
    database: str | os.PathLike[str] | bool,
    emit: Emit | None = None,
    precision: str = "float32",
) -> Artifact:
    """Compile a layer or block that the frontend has read into the folder ``output``."""
    from sepcompile.codegen.artifact import link_variant, write_artifact
    from sepcompile.codegen.cache import tool_versions
    from sepcompile.codegen.emit import Emit
    from sepcompile.codegen.selftest import make_selftest
    from sepcompile.ir.printer import to_text

    program, extras = imported.program, emit or Emit()
    extras.check_targets(targets)
    built, notes = _compiled(imported, targets, schedule, cache, database, precision=precision)
    variants = [
        link_variant(
            compiled, name=program.name, family=t.family, arch=t.arch, triple=t.triple, requires=t.requires,
            static=extras.static(compiled, t, program.name, program.batch), shared=not t.bare,
        )
        for t, compiled in zip(targets, built, strict=True)
    ]  # fmt: skip
    path = write_artifact(
        output,
        name=program.name,
        layer_info=_layer_info(imported),
        ir_text=to_text(program),
        input=program.input,
        output=program.output,
        variants=variants,
        weights_drawn=imported.weights_drawn,
        selftest=make_selftest(program, imported.weights, precision),
        tool_versions=tool_versions(),
        residual=program.residual,
    )
    names = tuple(t.name for t in targets)
    return Artifact(path, program.name, names, imported.weights_drawn, (*imported.notes, *notes))


def _compiled(
    imported: ImportedLayer,
    targets: tuple[Target, ...],
    schedule: CpuSchedule | None,
    cache: str | os.PathLike[str] | bool,
    database: str | os.PathLike[str] | bool,
    texts: bool = False,
    precision: str = "float32",
) -> tuple[list[Compiled], tuple[str, ...]]:
    """Each target's variant, and notes on what the tuning database was good for."""
    from sepcompile.autotune import find_tuned
    from sepcompile.codegen.cache import open_cache
    from sepcompile.codegen.entry import symbol_name
    from sepcompile.codegen.variant import compile_variant
    from sepcompile.codegen.worker import shared_worker

    symbol = symbol_name(imported.program.name)
    kept = open_cache(cache, "kernels.sqlite3")
    built: list[Compiled] = []
    notes: list[str] = []
    for target in targets:
        tuned = find_tuned(imported, target, database, precision) if schedule is None else None
        record = tuned.schedule if tuned is not None else schedule
        compiled = compile_variant(
            imported.program, imported.weights, target,
            symbol=symbol, worker=shared_worker(), cache=kept, schedule=record, texts=texts, precision=precision,
        )  # fmt: skip
        if tuned is not None:
            notes += tuned.notes
            compiled = replace(compiled, schedule_source=tuned.source or compiled.schedule_source)
        built.append(compiled)
    return built, tuple(notes)


def _layer_info(imported: ImportedLayer) -> dict[str, object]:
    return {
        "config": imported.config,
        "generation": imported.generation,
        "ignored": imported.ignored,
        "keras_version": imported.keras_version,
        "notes": list(imported.notes),
    }
