"""A layer with its arrays in fixed places, for loops that call it again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .pool import on_fork

Prepared = tuple[Callable[[], object], object]


class BoundCall:
    """What ``Layer.bind`` gives: ``bound()`` computes ``bound.out`` from what ``bound.inputs`` hold by then.

    What a call checks was checked when it was bound, so that ``bound()`` costs little more than a call of C. It has
    scratch memory of its own; one thread at a time may call it, since all its calls write to the same ``out``.
    """

    __slots__ = ("__weakref__", "_call", "_keep", "_prepare", "inputs", "out")

    def __init__(self, inputs: tuple[Any, ...], out: Any, prepare: Callable[[], Prepared]) -> None:
        """``prepare`` gives the call and what must live as long; asked once, and again in the child after a fork."""
        self.inputs, self.out = inputs, out
        self._prepare = prepare
        self._call, self._keep = prepare()
        on_fork(self)

    def __call__(self) -> Any:
        """Compute; returns ``out``."""
        self._call()
        return self.out

    def forget_pool(self) -> None:
        """The next call prepares anew: the threads that the old one waits for did not survive the fork."""
        self._call = self._again

    def _again(self) -> None:
        self._call, self._keep = self._prepare()
        self._call()
