"""Loop transforms that the schedules of several kernels share."""

from __future__ import annotations

from typing import Any

Block = Any
Loop = Any


def decompose(s: Any, sums: str, reduction: Loop) -> None:
    """Take the zero initialisation of ``sums`` out of its reduction, in front of the loop ``reduction``."""
    s.decompose_reduction(s.get_sblock(sums), reduction)
    unroll_tile(s, s.get_sblock(f"{sums}_init"), 2)


def unroll_tile(s: Any, block: Block, axes: int) -> None:
    """Unroll the ``axes`` loops before the last and vectorize the last."""
    *_, lane = loops = s.get_loops(block)
    for loop in loops[-1 - axes : -1]:
        s.unroll(loop)
    s.vectorize(lane)


def unroll_taps(s: Any, sums: Block, taps: int, rows: bool, width: int) -> Loop:
    """Unroll the register tile of the depthwise ``sums``, ``taps`` of the kernel's ``width`` columns, and its ``rows``.

    Returns the first loop of the reduction.
    """
    *_, r, x, lane, dy, dx = s.get_loops(sums)
    outer, unrolled = s.split(dx, [None, min(taps, width)])
    if rows:
        s.reorder(outer, dy, unrolled, r, x, lane)
        s.unroll(dy)
    else:
        s.reorder(dy, outer, unrolled, r, x, lane)
    for loop in (unrolled, r, x):
        s.unroll(loop)
    s.vectorize(lane)
    s.set_scope(sums, 0, "local")
    return outer if rows else dy
