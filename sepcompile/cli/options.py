"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sepcompile.compute.planar_record import CpuSchedule

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Threads one call may use (default: as many as there are CPUs)."
)


def read_shape(value: str) -> list[int | None]:
    """``None,112,112,32``, with or without brackets."""
    parts = [part.strip() for part in value.strip().strip("()[]").rstrip(",").split(",")]
    if not all(re.fullmatch(r"(?i:none|null)|-?[0-9]{1,18}", part) for part in parts):
        raise click.BadParameter(f"{value!r}: expected the shape with the batch first, such as None,112,112,32")
    return [None if part.lower() in ("none", "null") else int(part) for part in parts]


def layer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """LAYER and what it may need beside it."""
    options: list[Decorator] = [
        click.option(
            "--input-shape", type=read_shape, metavar="SHAPE", help="Input shape with the batch; None is any batch."
        ),
        click.option(
            "--weights", metavar="FILE", help=".npz, .safetensors, .h5 or .keras; without it, drawn as the config says."
        ),
        click.option("--keras-version", metavar="VERSION", help='"2", "3", "3.15": where the config does not say.'),
        click.option("--schedule", metavar="FILE", help="JSON file with a schedule to use instead of the heuristic's."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def read_layer_argument(layer: str) -> str | bytes:
    """LAYER as the API takes it: ``-`` is standard input."""
    return sys.stdin.buffer.read() if layer == "-" else layer


def artifact_folders(path: str) -> list[str]:
    """The folders of the artifacts behind an argument: a model's folder holds several."""
    folder = Path(path)
    try:
        several = (folder / "model.json").is_file() and not (folder / "manifest.json").exists()
    except (OSError, ValueError):
        several = False
    found = sorted(str(manifest.parent) for manifest in folder.glob("*/manifest.json")) if several else []
    return found or [path]


def split_names(values: tuple[str, ...]) -> list[str]:
    """Names from repeated options, each of which may hold several, separated by commas."""
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise click.UsageError(f"--target {','.join(values)!r}: a name is empty")
    return names


def read_schedule(path: str | None) -> CpuSchedule | None:
    """The schedule record in a JSON file. Raises ``ScheduleError``."""
    if path is None:
        return None
    from sepcompile.compute.planar_record import read_record
    from sepcompile.errors import ScheduleError

    try:
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ScheduleError(f"schedule file {path!r}: {error}") from error
    if not isinstance(data, dict):
        raise ScheduleError(f"schedule file {path!r}: a JSON {type(data).__name__}; expected an object of knobs")
    return read_record(data)
