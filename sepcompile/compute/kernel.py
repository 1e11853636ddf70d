"""What every kernel is before scheduling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te

from sepcompile.compute.views import View

Tensor = Any


@dataclass(frozen=True)
class Ahead:
    """What the next task will read, so that it can be asked for early: ``step`` elements of an operand that has
    ``total``. Task 0's begin at element ``first`` (it may be negative), and each further task's ``step`` later.
    """

    operand: str
    step: int
    first: int
    total: int


@dataclass(frozen=True)
class KernelIR:
    """One kernel before scheduling: its PrimFunc, operand names in order, and the memory layout of its buffers.

    Operands are named as in ``codegen.plan.Step``: ``x``, ``y``, ``w:<weight>``, ``t:<intermediate>``. ``stages`` are
    the names of the stages before the output, in the order of their computation, where a schedule walks them. ``ahead``
    is None where nothing is to be asked for early.
    """

    func: Any
    operands: tuple[str, ...]
    views: dict[str, View]
    stages: tuple[str, ...] = ()
    ahead: Ahead | None = None


def buffer_name(operand: str) -> str:
    """The name of an operand's buffer in a kernel's function."""
    return "".join(c if c.isalnum() else "_" for c in operand)


class Builder:
    """Collects the placeholders of one kernel while its stages are declared."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Tensor]] = []
        self.stages: list[str] = []

    def operand(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        """A placeholder, in the order of first use."""
        for known, tensor in self.inputs:
            if known == name:
                return tensor
        tensor = te.placeholder(shape, dtype, buffer_name(name))
        self.inputs.append((name, tensor))
        return tensor

    def stage(self, name: str, shape: tuple[int, ...], value: Callable[..., Any]) -> Tensor:
        """A stage before the output, remembered for the schedule."""
        self.stages.append(name)
        return te.compute(shape, value, name)

    def finish(self, output: Tensor, operand: str, views: dict[str, View]) -> KernelIR:
        """The kernel that computes ``output``."""
        func = te.create_prim_func([t for _, t in self.inputs] + [output])
        return KernelIR(func, (*(name for name, _ in self.inputs), operand), views, tuple(self.stages))
