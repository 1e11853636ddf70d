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
