"""The space of schedule records that the search walks: independent axes, and rules that reject before any compile.

A *point* is one choice per axis, a tuple of indices. An axis may set several knobs that only make sense together (a
register tile). The heuristic's record is always a point. A family of targets comes in as a function that builds a
``Space`` from a form; the search knows nothing else of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ScheduleError

Point = tuple[int, ...]
_TRIES = 200


class Record(Protocol):
    """A schedule record of any family."""

    def to_json(self) -> dict[str, object]:
        """The knobs."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Axis:
    """Choices of which a point takes one. Each sets the knobs in ``choices``; ``places`` says where it lies, so that
    near choices can be told from far ones: one tuple of numbers each, about 1 apart where a size doubles."""

    name: str
    choices: tuple[Mapping[str, object], ...]
    places: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(name: str, choices: Sequence[Mapping[str, object]]) -> Axis:
        """An axis of distinct ``choices``: sizes are placed by their logarithm, flags and names by their order."""
        distinct = [choice for index, choice in enumerate(choices) if choice not in choices[:index]]
        words = sorted({value for choice in distinct for value in choice.values() if isinstance(value, str)})

        def place(value: object) -> float:
            if isinstance(value, str):
                return float(words.index(value))
            return float(value) if isinstance(value, bool) else math.log2(max(1, int(value)))  # type: ignore[call-overload]

        return Axis(name, tuple(distinct), tuple(tuple(map(place, choice.values())) for choice in distinct))


class Space(Generic[R]):
    """All points of ``axes`` that ``check`` lets pass.

    ``make`` gives the record of a mapping of knobs, ``check`` raises ``ScheduleError`` for a record that cannot be
    applied or cannot be good, and ``cost`` predicts a record's time in any unit. ``default`` is the heuristic's record.
    """

    def __init__(
        self,
        default: R,
        axes: Sequence[Axis],
        make: Callable[[Mapping[str, object]], R],
        check: Callable[[R], None],
        cost: Callable[[R], float],
    ) -> None:
        self.default, self.axes = default, tuple(axes)
        self._make, self._check, self._cost = make, check, cost
        self._knobs = default.to_json()
        self._costs: dict[Point, float] = {}
        start = self.find(default)
        assert start is not None, "the heuristic's record must be a point of its space"
        self.start = start

    @property
    def size(self) -> int:
        """Points before any is rejected."""
        return math.prod(len(axis.choices) for axis in self.axes)

    def record(self, point: Point) -> R:
        """The record of a point."""
        knobs = dict(self._knobs)
        for axis, index in zip(self.axes, point, strict=True):
            knobs |= axis.choices[index]
        return self._make(knobs)

    def find(self, record: R) -> Point | None:
        """The point of ``record``; None where the space has no such point."""
        knobs = record.to_json()
        point = []
        for axis in self.axes:
            fitting = (i for i, choice in enumerate(axis.choices) if choice.items() <= knobs.items())
            if (index := next(fitting, None)) is None:
                return None
            point.append(index)
        found = tuple(point)
        return found if self.record(found) == record else None

    def cost(self, point: Point) -> float:
        """The predicted time of a point in the model's unit; infinite where it is rejected."""
        if point not in self._costs:
            record = self.record(point)
            try:
                self._check(record)
                self._costs[point] = self._cost(record)
            except ScheduleError:
                self._costs[point] = math.inf
        return self._costs[point]

    def allowed(self, point: Point) -> bool:
        """Whether a point is not rejected. The heuristic's own never is."""
        return point == self.start or self.cost(point) < math.inf

    def points(self) -> Iterator[Point]:
        """Every allowed point."""
        return (point for point in np.ndindex(*(len(axis.choices) for axis in self.axes)) if self.allowed(point))

    def neighbours(self, point: Point) -> Iterator[Point]:
        """Allowed points that differ in one axis."""
        for number, axis in enumerate(self.axes):
            for index in range(len(axis.choices)):
                if index != point[number]:
                    other = (*point[:number], index, *point[number + 1 :])
                    if self.allowed(other):
                        yield other

    def random(self, rng: np.random.Generator) -> Point:
        """Some allowed point; the heuristic's where chance finds none."""
        for _ in range(_TRIES):
            point = tuple(int(rng.integers(len(axis.choices))) for axis in self.axes)
            if self.allowed(point):
                return point
        return self.start

    def mutate(self, point: Point, rng: np.random.Generator) -> Point:
        """An allowed point that differs in one to three axes; ``point`` itself where chance finds none."""
        for _ in range(_TRIES):
            changed = list(point)
            for number in rng.choice(len(self.axes), min(len(self.axes), int(rng.integers(1, 4))), replace=False):
                changed[number] = int(rng.integers(len(self.axes[number].choices)))
            if (other := tuple(changed)) != point and self.allowed(other):
                return other
        return point

    def cross(self, one: Point, other: Point, rng: np.random.Generator) -> Point:
        """Each axis from one of two points; the first point where that is not allowed."""
        mixed = tuple(a if rng.random() < 0.5 else b for a, b in zip(one, other, strict=True))
        return mixed if self.allowed(mixed) else one

    def features(self, points: Sequence[Point]) -> NDArray[np.float64]:
        """The places of points on every axis, (points, numbers)."""
        rows = [[n for axis, i in zip(self.axes, point, strict=True) for n in axis.places[i]] for point in points]
        return np.array(rows, dtype=np.float64).reshape(len(points), -1)

    @property
    def parts(self) -> list[slice]:
        """Which numbers of ``features`` belong to each axis."""
        ends = np.cumsum([len(axis.places[0]) for axis in self.axes])
        return [slice(int(end) - len(axis.places[0]), int(end)) for axis, end in zip(self.axes, ends, strict=True)]
