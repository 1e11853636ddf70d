"""How a logical buffer of a kernel lies in memory.

A kernel's tensor expressions walk rectangular tiles only: every extent divides. Where the real tensor does not divide,
the last tile *overlaps* its neighbour: it starts earlier and computes some elements twice, with the same value. So the
output is declared with one axis per tile level, and a view says at which flat element each logical element lies. Loads
and stores may differ: what is written by tile is read back by pixel.

Views keep predicates out of the inner loops and never touch memory outside the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Expr = Any  # tvm.ir.Expr, int
Index = Callable[[Sequence[Expr]], Expr]


@dataclass(frozen=True)
class View:
    """``size`` elements in memory; ``load`` and ``store`` map logical indices to a flat element index.

    ``vector``: every group of that many elements from a multiple of it on may be loaded whole.
    """

    size: int
    store: Index
    load: Index
    vector: int = 1


def clamp(tile: Expr, width: int, extent: int) -> Expr:
    """First element of tile number ``tile`` when tiles of ``width`` cover ``extent`` and the last one overlaps."""
    from tvm import tirx

    if width > extent:
        raise ValueError(f"a tile of {width} cannot cover an extent of {extent}")
    return tile * width if extent % width == 0 else tirx.min(tile * width, extent - width)
