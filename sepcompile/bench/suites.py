"""The suites: lists of layers as JSON files beside this module, or any such file of the user's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer, geometry

FOLDER = Path(__file__).parent / "suites"


def names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(suite: str) -> list[BenchLayer]:
    """The layers of a named suite or of a JSON file; every row is checked before anything runs."""
    path = FOLDER / f"{suite}.json" if suite in names() else Path(suite)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(names())
        raise BenchError(f"suite {suite!r}: not one of {known}, and not a readable JSON file ({error})") from error
    rows = document.get("layers") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not rows:
        raise BenchError(f'suite {suite!r}: expected a list of layers, or {{"layers": [...]}}')
    return checked(BenchLayer.from_json(row) for row in rows)


def checked(layers: Iterable[BenchLayer]) -> list[BenchLayer]:
    """The same layers, with unique names and a geometry that works out."""
    result = list(layers)
    seen: set[str] = set()
    for layer in result:
        geometry(layer)
        if layer.name in seen:
            raise BenchError(f"two layers are named {layer.name!r}")
        seen.add(layer.name)
    return result


def select(layers: Iterable[BenchLayer], wanted: Iterable[str]) -> list[BenchLayer]:
    """The layers of these names, in the suite's order; no names means all."""
    result, chosen = list(layers), set(wanted)
    unknown = chosen - {layer.name for layer in result}
    if unknown:
        raise BenchError(f"no such layer in the suite: {', '.join(sorted(unknown))}")
    return [layer for layer in result if not chosen or layer.name in chosen]
