"""What follows a stage, element by element: bias, activation, PReLU's weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepcompile.compute import activations
from sepcompile.compute.form import Epilogue, Form
from sepcompile.compute.kernel import Builder
from sepcompile.ir.stages import Activation

Expr = Any
Finish = Callable[[Expr, Expr, Expr, Expr], Expr]


def epilogue(builder: Builder, form: Form, what: Epilogue, channels: int) -> Finish:
    """A function of (value, row, column, channel) that adds the bias and applies the activation."""
    bias = builder.operand(f"w:{what.bias}", (channels,)) if what.bias else None
    alpha = alpha_at(builder, form, what.activation)

    def finish(value: Expr, row: Expr, column: Expr, channel: Expr) -> Expr:
        if bias is not None:
            value = value + bias[channel]
        if what.activation is None:
            return value
        return activations.apply(what.activation, value, alpha and alpha(row, column, channel))

    return finish


def alpha_at(builder: Builder, form: Form, stage: Activation | None) -> Callable[[Expr, Expr, Expr], Expr] | None:
    """PReLU's weight as a function of (row, column, channel); axes of extent 1 are shared."""
    if stage is None or stage.weight is None:
        return None
    shape = dict(form.alphas)[stage.weight]
    tensor = builder.operand(f"w:{stage.weight}", shape)

    def at(*where: Expr) -> Expr:
        return tensor(*(0 if extent == 1 else index for extent, index in zip(shape, where, strict=True)))

    return at
