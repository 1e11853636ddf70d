"""What the commands print: safe text, tables, JSON, progress."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sepcompile.runtime.manifest import StaticEntry

Shape = Sequence[int | None]


def safe(text: object, keep: str = "") -> str:
    """``text`` with everything escaped that is not a printable character: names come from files of others.

    Control characters could move the cursor or recolour the terminal, direction marks reorder what is read.
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in str(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(text: object = "") -> None:
    """One line on standard output."""
    click.echo(safe(text))


def say_text(text: str) -> None:
    """A text of several lines, such as TIR or assembly."""
    click.echo(safe(text, keep="\n\t").rstrip("\n"))


def say_json(value: object) -> None:
    """A JSON document; infinities and NaN, which JSON lacks, become null."""
    text = json.dumps(_plain(value), indent=1, allow_nan=False)
    # Lists of numbers, such as shapes, on one line. Strings hold no line break, so none is touched.
    click.echo(re.sub(r'\[\n([^][{}"]*)\n\s*\]', lambda match: f"[{' '.join(match[1].split())}]", text))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value


def table(header: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> None:
    """Aligned columns; those named in ``right`` (words) to the right."""
    cells = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    to_right = set(right.split())

    def line(values: Sequence[str]) -> str:
        parts = [v.rjust(w) if h in to_right else v.ljust(w) for v, w, h in zip(values, widths, header, strict=True)]
        return "  ".join(parts).rstrip()

    click.echo(click.style(line(header), bold=True))
    for row in cells:
        click.echo(line(row))


def fields(rows: Sequence[tuple[str, object]]) -> None:
    """Names and values, one per line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")


def shape(sizes: Shape) -> str:
    """A shape as Keras writes it, without spaces so that it stays one column."""
    return "(" + ",".join("None" if size is None else str(size) for size in sizes) + ")"


def size(nbytes: float) -> str:
    """Bytes for people."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    return f"{nbytes / 1000:.1f} KB" if nbytes < 1e6 else f"{nbytes / 1e6:.1f} MB"


def static_library(static: StaticEntry) -> list[tuple[str, object]]:
    """What a static library takes of a device, in exact bytes: they are counted where they are few."""
    flash = f"{static.flash_bytes} bytes: code {static.code_bytes}, weights and constants {static.constant_bytes}"
    parts = [("input", static.input_bytes), ("output", static.output_bytes), ("arena", static.arena_bytes)]
    ram = f"{static.ram_bytes} bytes: " + ", ".join(f"{name} {nbytes}" for name, nbytes in parts)
    if static.stack_bytes is not None:
        ram += f" (and {static.stack_bytes} of stack)"
    return [("  static", static.library), ("    flash", flash), ("    RAM", ram)]


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def short(path: Path) -> str:
    """A path as the user would type it: relative where it lies below the current folder."""
    with contextlib.suppress(ValueError, OSError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def program() -> str:
    """How to call this program from here: by its name where that is found, else as it was called."""
    name = "sepcompile"
    return name if shutil.which(name) else short(Path(sys.argv[0]).absolute())


@contextlib.contextmanager
def progress(total: int, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yields ``step(what)``, to be called before each of ``total`` pieces of work.

    A bar on a terminal, a line per step elsewhere, both on standard error; nothing if ``quiet``.
    """
    if quiet:
        yield lambda what: None
    elif sys.stderr.isatty():
        with _bar(total) as step:
            yield step
    else:
        numbers = iter(range(1, total + 1))
        yield lambda what: click.echo(f"[{next(numbers, total)}/{total}] {safe(what)}", err=True)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        started: list[str] = []

        def step(what: str) -> None:
            bar.update(task, advance=1 if started else 0, description=safe(what))
            started.append(what)

        yield step


@contextlib.contextmanager
def spinner(what: str) -> Iterator[None]:
    """Shows on a terminal that something short is under way."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(safe(what))):
        yield
