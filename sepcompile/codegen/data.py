"""Where the files that are not Python live: ``templates/`` beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

_PACKAGE = Path(__file__).resolve().parent.parent


def data_folder(name: str) -> Path:
    """The folder ``name`` (``"templates"`` or ``"targets"``) of this installation.

    Raises ``FileNotFoundError`` where the installation lacks it.
    """
    candidates = (_PACKAGE / "_data" / name, _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"sepcompile's folder {name!r} is missing; looked at {', '.join(map(str, candidates))}")


@cache
def environment() -> jinja2.Environment:
    """The Jinja2 environment of every text that is emitted. An undefined variable is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is C, Python and Markdown, never HTML
    )


def render(template: str, **values: object) -> str:
    """``templates/<template>`` with ``values`` filled in."""
    return environment().get_template(template).render(**values)
