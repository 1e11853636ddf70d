"""What ``compile`` and ``inspect`` print for a whole model."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from sepcompile.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from sepcompile.api import Artifact
    from sepcompile.frontend.model import LayerReport, ModelReport

_MAX_REASON = 100


def is_model(source: object) -> bool:
    """Whether LAYER is a model. A folder is an artifact, without a look at the frontend."""
    if isinstance(source, str) and os.path.isdir(source):  # noqa: PTH112 - a JSON text is no legal Path
        return False
    from sepcompile.frontend.model import is_model as found

    return found(source)


# ---- compile -------------------------------------------------------------------------------------------------------


def compile_model(source: object, as_json: bool, **arguments: Any) -> None:
    """Compile a model with a line of progress per block, and say what came out."""
    from sepcompile import models

    start = time.perf_counter()
    with _steps(as_json) as step:
        artifact = models.compile_model(source, step=step, **arguments)
    seconds = time.perf_counter() - start
    if as_json:
        _compiled_json(artifact, seconds)
    else:
        _compiled_text(artifact, seconds)


class _steps:  # noqa: N801 - used as a context manager
    """``output.progress``, opened at the first block: how many there are is known then."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.context: Any = None
        self.show: Callable[[str], None] | None = None

    def __enter__(self) -> Callable[[str, int], None]:
        return self._step

    def _step(self, name: str, total: int) -> None:
        if self.show is None:
            self.context = output.progress(total, quiet=self.quiet)
            self.show = self.context.__enter__()
        self.show(f"compiling {name}")

    def __exit__(self, *error: object) -> None:
        if self.context is not None:
            self.context.__exit__(*error)


def _compiled_json(artifact: Artifact, seconds: float) -> None:
    output.say_json(
        {
            "path": artifact.path,
            "name": artifact.name,
            "targets": artifact.targets,
            "weights_drawn": artifact.weights_drawn,
            "notes": artifact.notes,
            "artifacts": [{"name": part.name, "path": part.path} for part in artifact.parts],
            "seconds": seconds,
        }
    )


def _compiled_text(artifact: Artifact, seconds: float) -> None:
    from sepcompile import api

    folder = output.short(artifact.path)
    count = len(artifact.parts)
    output.say(
        f"compiled {count} block{'s' * (count != 1)} of {artifact.name} to {folder} in {output.duration(seconds)}"
    )
    rows = []
    for part in artifact.parts:
        found = api.manifest(part.path)
        nbytes = sum(entry.nbytes for entry in found.files.values())
        inputs = output.shape(found.input.shape) + (" + residual" if found.residual is not None else "")
        rows.append((part.name, inputs, output.shape(found.output.shape), output.size(nbytes)))
    output.table(("artifact", "input", "output", "size"), rows, right="size")
    for note in artifact.notes:
        output.say(f"note: {note}")
    if all(variant.bare for variant in found.variants):
        output.say(f"next: link {output.short(part.path)}/{found.variants[0].library} and the others")
    else:
        output.say(f"next: {output.program()} run {output.short(artifact.parts[0].path)} --benchmark")


# ---- inspect -------------------------------------------------------------------------------------------------------


def inspect_model(source: object, as_json: bool, **arguments: Any) -> None:
    """Every layer of a model: what it is, its cost, and its artifact or why it has none."""
    from sepcompile.models import inspect_model as look

    report = look(source, **arguments)
    if as_json:
        _report_json(report)
    else:
        _report_text(report)


def _report_json(report: ModelReport) -> None:
    output.say_json(
        {
            "name": report.name,
            "source": report.label,
            "keras_version": report.keras_version,
            "flops": 2 * report.macs,
            "covered_flops": 2 * report.covered_macs,
            "artifacts": report.artifacts,
            "layers": [
                {
                    "layer": row.path,
                    "class_name": row.class_name,
                    "output_shape": row.output_shape,
                    "flops": row.flops,
                    "weight_bytes": row.weight_bytes,
                    "artifact": row.artifact,
                    "reason": row.reason,
                }
                for row in report.layers
            ],
        }
    )


def _report_text(report: ModelReport) -> None:
    header = ("layer", "class", "output", "MFLOP", "weights", "artifact, or why not")
    output.table(header, [_row(row) for row in report.layers], right="MFLOP weights")
    share = 100.0 * report.covered_macs / report.macs if report.macs else 0.0
    total = f"{2 * report.macs / 1e6:.3g} MFLOP per image"
    output.say(f"{report.name}: {len(report.artifacts)} artifacts, {share:.1f} % of {total}")


def _row(row: LayerReport) -> tuple[object, ...]:
    reason = row.artifact or f"- {row.reason}"
    return (
        row.path,
        row.class_name,
        "?" if row.output_shape is None else output.shape(row.output_shape),
        "?" if row.flops is None else f"{row.flops / 1e6:.3g}",
        "?" if row.weight_bytes is None else output.size(row.weight_bytes),
        reason if len(reason) <= _MAX_REASON else reason[: _MAX_REASON - 3] + "...",
    )
