"""What follows a stage, element by element: bias, activation with PReLU's weight, residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tvm import tirx

from sepcompile.compute import activations
from sepcompile.compute.form import Epilogue, Form
from sepcompile.ir.stages import Activation

Expr = Any
Finish = Callable[..., Expr]
RESIDUAL = "r"
"""The operand that is a program's second input."""


class Operands(Protocol):
    """What hands out a kernel's placeholders: the builder of either family."""

    def operand(self, name: str, shape: tuple[int, ...]) -> Any:
        """The placeholder of an operand of the plan."""
        ...


def epilogue(builder: Operands, form: Form, what: Epilogue, channels: int, *, padded: bool = False) -> Finish:
    """A function of (value, row, column, channel, second) that adds the bias, activates, and adds the residual.

    ``second`` is the element of the second input, for an epilogue with a residual. ``padded``: see ``alpha_at``.
    """
    bias = builder.operand(f"w:{what.bias}", (channels,)) if what.bias else None
    first, last = (_activate(builder, form, stage, padded) for stage in (what.activation, what.last))

    def finish(value: Expr, row: Expr, column: Expr, channel: Expr, second: Expr | None = None) -> Expr:
        if bias is not None:
            value = value + bias[channel]
        value = first(value, row, column, channel)
        if what.residual is not None:
            assert second is not None
            value = value + second.astype("float32")
        return last(value, row, column, channel)

    return finish


def _activate(builder: Operands, form: Form, stage: Activation | None, padded: bool) -> Finish:
    """A function of (value, row, column, channel) that applies an activation, if there is one."""
    alpha = alpha_at(builder, form, stage, padded=padded)

    def apply(value: Expr, row: Expr, column: Expr, channel: Expr) -> Expr:
        return value if stage is None else activations.apply(stage, value, alpha and alpha(row, column, channel))

    return apply


def alpha_at(
    builder: Operands, form: Form, stage: Activation | None, *, padded: bool = False
) -> Callable[[Expr, Expr, Expr], Expr] | None:
    """PReLU's weight as a function of (row, column, channel); axes of extent 1 are shared.

    Where tiles reach beyond the image (``padded``), an element outside it reads the nearest weight.
    """
    if stage is None or stage.weight is None:
        return None
    shape = dict(form.alphas)[stage.weight]
    tensor = builder.operand(f"w:{stage.weight}", shape)

    def at(*where: Expr) -> Expr:
        if padded:
            where = tuple(tirx.max(0, tirx.min(i, extent - 1)) for extent, i in zip(shape, where, strict=True))
        return tensor(*(0 if extent == 1 else index for extent, index in zip(shape, where, strict=True)))

    return at
