"""An exhaustive look at a space: what a search is judged by. Hundreds of measurements per layer.

The whole product of all axes is millions of points, but a layer's two stages are separate kernels' work. So every
allowed point of the structure (block and register tile) is measured, then every point of the depthwise tile with its
flags around the best, then every choice of each axis that is left; and once more if anything was gained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sepcompile.tuning.space import Point, Space

STAGES = (("block", "tile"), ("depthwise", "unroll_rows", "staged"))
Times = Mapping[Point, float]


def sweep(space: Space[Any], measure: Callable[[Sequence[Point]], Times], passes: int = 2) -> dict[Point, float]:
    """Every point that was measured and its time over the heuristic's.

    ``measure`` gives the times of points over the heuristic's; it leaves out those that fail.
    """
    times: dict[Point, float] = {space.start: 1.0}
    best = space.start
    for _ in range(passes):
        before = best
        for axes in _stages(space):
            wanted = [point for point in product(space, best, axes) if point not in times]
            times.update(measure(wanted))
            best = min(times, key=lambda point: (times[point], point))
        if best == before:
            break
    return times


def product(space: Space[Any], point: Point, axes: Sequence[str]) -> Iterator[Point]:
    """Every allowed point that differs from ``point`` in ``axes`` alone, itself included."""
    varied = [
        range(len(axis.choices)) if axis.name in axes else (own,) for axis, own in zip(space.axes, point, strict=True)
    ]
    return (found for found in itertools.product(*varied) if space.allowed(found))


def _stages(space: Space[Any]) -> list[tuple[str, ...]]:
    """The axes that are varied together, those that go together first."""
    taken = {name for stage in STAGES for name in stage}
    return [*STAGES, *((axis.name,) for axis in space.axes if axis.name not in taken)]
