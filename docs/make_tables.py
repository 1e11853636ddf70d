"""Writes the generated parts of README.md and docs/ from the code that they describe.

    python docs/make_tables.py           say which files are out of date (exit code 1 if any)
    python docs/make_tables.py --write   rewrite them
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sepcompile import errors
from sepcompile.errors import SepcompileError
from sepcompile.frontend.activations import FUNCTIONS, read_activation
from sepcompile.frontend.generation import Generation
from sepcompile.frontend.keys import KEYS, Key
from sepcompile.ir.stages import Origin

ROOT = Path(__file__).resolve().parents[1]
GENERATIONS = {"keras2": "Keras 2", "keras3": "Keras 3", "r": "R"}
EFFECTS = {"computes": "result", "weights": "weights", "shape": "input shape", "none": "nothing"}


def arguments() -> str:
    """One row per key of a layer's config; those without effect at inference last, several to a row."""
    header = ["argument", "layers", *GENERATIONS.values(), "accepted", "default", "decides"]
    rows = [_row(key.name, key) for key in KEYS if key.effect != "none"]
    alike: dict[tuple[object, ...], list[Key]] = {}
    for key in KEYS:
        if key.effect == "none":
            alike.setdefault((key.classes, key.generations, key.accepted, key.default), []).append(key)
    rows += [_row("`, `".join(key.name for key in keys), keys[0]) for keys in alike.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def _row(names: str, key: Key) -> list[str]:
    layers = "all" if len(key.classes) == 4 else "Separable"
    known = ["yes" if name in key.generations else "-" for name in GENERATIONS]
    decides = "name of the artifact" if key.name == "name" else EFFECTS[key.effect]
    return [f"`{names}`", layers, *known, key.accepted, key.default, decides]


def activations() -> str:
    """The names of functions, those that only Keras 3 has apart."""
    keras2 = [name for name in sorted(FUNCTIONS) if _in_keras_2(name)]
    only3 = [name for name in sorted(FUNCTIONS) if name not in keras2]
    return (
        f"Activations of both generations: {', '.join(f'`{name}`' for name in keras2)}.\n"
        f"Of Keras 3 only: {', '.join(f'`{name}`' for name in only3)}."
    )


def _in_keras_2(name: str) -> bool:
    try:
        read_activation(name, Origin("docs"), Generation("keras2", (2, 15)))
    except SepcompileError:
        return False
    return True


def error_tree() -> str:
    """The tree in the docstring of ``sepcompile.errors``."""
    text = (errors.__doc__ or "").split("::\n\n", 1)[1].split("\n\n", 1)[0]
    return "```text\n" + "\n".join(line.removeprefix("    ") for line in text.splitlines()) + "\n```"


PARTS = {"README.md": {"arguments": arguments, "activations": activations}, "docs/errors.md": {"errors": error_tree}}


def filled(file: str) -> str:
    """The text of a file with its generated parts, which stand between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, make in PARTS[file].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{file}: no place for {name!r}")
        new = make()
        text = pattern.sub(lambda match, new=new: f"{match[1]}{new}\n{match[2]}", text)
    return text


def main() -> int:
    """Exit code 1 where a file is out of date and not rewritten."""
    stale = [file for file in PARTS if filled(file) != (ROOT / file).read_text(encoding="utf-8")]
    for file in stale:
        if "--write" in sys.argv[1:]:
            (ROOT / file).write_text(filled(file), encoding="utf-8")
        print(f"{file}: {'written' if '--write' in sys.argv[1:] else 'out of date'}")
    return 1 if stale and "--write" not in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
