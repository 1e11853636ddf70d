"""``sepcompile targets``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import options, output

if TYPE_CHECKING:
    from sepcompile.targets import Target


@click.command("targets", short_help="List the targets, or show one.")
@click.argument("name", required=False)
@options.json_option
def command(name: str | None, as_json: bool) -> None:
    """List the targets, or show the one called NAME (or the TOML file NAME, or native).

    \b
    Example:
      sepcompile targets
      sepcompile targets x86-64-v3 --json
    """
    from sepcompile import targets

    if name is not None:
        target = targets.get_target(name)
        _show(target, as_json)
        return
    found = targets.list_targets()
    native = _native_name()
    if as_json:
        output.say_json([_as_dict(target) | {"native": target.name == native} for target in found])
        return
    rows = [(t.name, t.family, _runs(t), "native" if t.name == native else "", t.description) for t in found]
    output.table(("name", "family", "runs here", "", "description"), rows)


def _native_name() -> str | None:
    from sepcompile.errors import TargetError
    from sepcompile.targets import native

    try:
        return native().name
    except TargetError:  # a machine that no target is for can still compile for others
        return None


def _missing(target: Target) -> tuple[str, ...]:
    """What this machine lacks to run a target's code."""
    from sepcompile.runtime import cpu

    if sys.platform != "linux":
        return ("Linux",)
    return cpu.missing(target.requires) if target.arch == cpu.machine() else (target.arch,)


def _runs(target: Target) -> str:
    return "no" if _missing(target) else "yes"


def _as_dict(target: Target) -> dict[str, Any]:
    missing = _missing(target)
    return asdict(target) | {"runs_here": not missing, "missing": missing}


def _show(target: Target, as_json: bool) -> None:
    if as_json:
        output.say_json(_as_dict(target))
        return
    missing = _missing(target)
    machine = ", ".join(f"{name} {value}" for name, value in asdict(target.machine).items())
    output.fields(
        [
            ("name", target.name),
            ("description", target.description),
            ("devices", ", ".join(target.example_devices)),
            ("runs here", f"no, lacking {' '.join(missing)}" if missing else "yes"),
            ("needs", f"{target.arch}: {' '.join(target.requires)}"),
            ("compiled by", ", ".join(f"{key} {value}" for key, value in target.tvm.items())),
            ("linked for", target.triple),
            ("machine", machine),
        ]
    )
