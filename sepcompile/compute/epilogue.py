"""What follows a stage, element by element: bias, activation, PReLU's weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tvm import tirx

from sepcompile.compute import activations
from sepcompile.compute.form import Epilogue, Form
from sepcompile.ir.stages import Activation

Expr = Any
Finish = Callable[[Expr, Expr, Expr, Expr], Expr]


class Operands(Protocol):
    """What hands out a kernel's placeholders: the builder of either family."""

    def operand(self, name: str, shape: tuple[int, ...]) -> Any:
        """The placeholder of an operand of the plan."""
        ...


def epilogue(builder: Operands, form: Form, what: Epilogue, channels: int, *, padded: bool = False) -> Finish:
    """A function of (value, row, column, channel) that adds the bias and applies the activation.

    ``padded``: see ``alpha_at``.
    """
    bias = builder.operand(f"w:{what.bias}", (channels,)) if what.bias else None
    alpha = alpha_at(builder, form, what.activation, padded=padded)

    def finish(value: Expr, row: Expr, column: Expr, channel: Expr) -> Expr:
        if bias is not None:
            value = value + bias[channel]
        if what.activation is None:
            return value
        return activations.apply(what.activation, value, alpha and alpha(row, column, channel))

    return finish


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
