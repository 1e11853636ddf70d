"""What tuning has to do with the rows of a benchmark: the knobs that each layer ran with, and how they were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcompile.bench.cases import keras_weights
from sepcompile.bench.layers import BenchLayer, geometry, make_data
from sepcompile.bench.options import BenchOptions
from sepcompile.bench.peers.ours import ARTIFACT
from sepcompile.errors import SepcompileError
from sepcompile.runtime.manifest import read_manifest

if TYPE_CHECKING:
    from sepcompile.frontend import ImportedLayer
    from sepcompile.tuning.curve import Curve


@dataclass(frozen=True)
class LayerTuning:
    """A row's schedule as its artifact has it, where it came from, and the search behind it, if there was one."""

    layer: str
    target: str
    knobs: Mapping[str, object]
    source: str
    curve: Curve | None = None
    changed: frozenset[str] = field(default_factory=frozenset)


def collect(options: BenchOptions, layers: Sequence[BenchLayer], folder: Path) -> list[LayerTuning]:
    """For every layer that was compiled below ``folder``, the benchmark's work folder."""
    blocks = {block.layer.name: block.imported for block in options.blocks}
    found = []
    for layer in layers:
        try:
            variant = read_manifest(folder / layer.name / ARTIFACT).variants[0]
            imported = blocks.get(layer.name) or _imported(layer, options.seed)
            curve = _curve(imported, options.target)
        except SepcompileError:
            continue  # not compiled: the row says why
        default: Mapping[str, object] = curve.default if curve is not None else variant.schedule
        changed = frozenset(name for name, value in variant.schedule.items() if default.get(name, value) != value)
        found.append(LayerTuning(layer.name, variant.target, variant.schedule, variant.schedule_source, curve, changed))
    return found


def _imported(layer: BenchLayer, seed: int) -> ImportedLayer:
    """The row as the compiler reads it."""
    from sepcompile.frontend import read_layer

    source: dict[str, Any] = {"class_name": layer.class_name, "config": {"name": layer.name, **layer.config}}
    weights = keras_weights(layer, geometry(layer), make_data(layer, seed))
    return read_layer(source, input_shape=layer.input_shape, weights=weights)


def _curve(imported: ImportedLayer, target: str) -> Curve | None:
    """What the user's tuning database holds for just this program, target, version and machine."""
    from sepcompile.api import find_targets
    from sepcompile.autotune import database_path
    from sepcompile.codegen.variant import read_program
    from sepcompile.tuning.curve import read_curve
    from sepcompile.tuning.database import Database
    from sepcompile.tuning.device.requests import describe
    from sepcompile.tuning.key import make_key
    from sepcompile.tuning.runner import MachineIdentity

    path = database_path(True)
    if path is None or not path.exists():
        return None
    (found,) = find_targets(target)
    form, _ = read_program(imported.program, imported.weights)
    key = make_key(form, found, imported.program.batch, MachineIdentity.of(describe()))
    with Database(path, read_only=True) as database:
        return read_curve(database.outcomes(key))
