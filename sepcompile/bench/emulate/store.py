"""XNNPACK's figures, kept in a benchmark's work folder: they change with its version, not with our schedules."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sepcompile.bench.emulate.loops import Figures, Loop
from sepcompile.bench.emulate.report import FORMAT, Side

FILE = "xnnpack.json"


def key_of(**what: Any) -> dict[str, Any]:
    """What figures depend on, as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **what}))
    return plain


def write(folder: Path, key: dict[str, Any], side: Side) -> None:
    """Keep one layer's figures in its folder."""
    (folder / FILE).write_text(json.dumps({"key": key, "side": asdict(side)}), encoding="utf-8")


def read(folder: Path, key: dict[str, Any]) -> Side | None:
    """The figures that were kept under the same key, if there are any."""
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if document["key"] != key:
            return None
        values = document["side"]
        loops = tuple(Loop(**loop) for loop in values["figures"]["loops"])
        return Side(**{**values, "figures": Figures(**{**values["figures"], "loops": loops})})
    except (OSError, ValueError, KeyError, TypeError):
        return None
