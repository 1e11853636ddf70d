"""Programs as text, for ``inspect --ir`` and for error reports."""

from __future__ import annotations

from dataclasses import fields

from sepcompile.ir.shapes import Dims, place
from sepcompile.ir.stages import Activation, Program, Stage, TensorSpec


def to_text(program: Program) -> str:
    """One line per stage: its name, its fields and the NHWC shape after it."""
    lines = [f"program {_printable(program.name)!s}({_spec(program.input)}) -> {_spec(program.output)} {{"]
    rows = [(_stage_text(placed.stage), _dims(placed.after)) for placed in place(program)]
    width = max((len(text) for text, _ in rows), default=0)
    lines += [f"  {text:<{width}}  : {dims}" for text, dims in rows]
    return "\n".join([*lines, "}"])


def _printable(name: str) -> str:
    return name if name.isidentifier() else repr(name)


def _spec(spec: TensorSpec) -> str:
    return f"{spec.dtype}{_sizes(spec.shape)}"


def _dims(dims: Dims) -> str:
    return _sizes(dims)


def _sizes(sizes: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in sizes) + "]"


def _stage_text(stage: Stage) -> str:
    if isinstance(stage, Activation):
        parts = [f"{name}={value:.9g}" for name, value in stage.params]
        parts += [f"axis={stage.axis}"] if stage.axis is not None else []
        parts += [f"weight={stage.weight}"] if stage.weight is not None else []
        return f"{stage.kind}({', '.join(parts)})"
    parts = [f"{field.name}={getattr(stage, field.name)}" for field in fields(stage) if field.name != "origin"]
    return f"{type(stage).__name__.lower()}({', '.join(parts)})"
