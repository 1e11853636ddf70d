"""What to try next. First what the cost model thinks best, one record per structure; then Bayesian optimisation.

A Gaussian process over the places of the points learns how measured times differ from predicted ones (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1); of the points around the best ones, by mutation
and crossover, the one with the largest expected improvement (Jones, Schonlau and Welch, 1998) is next.

Proposals depend on the seed and on what was told, in that order, and on nothing else: a search that is told the same
results again makes the same proposals again. That is how an interrupted one is resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.tuning.space import Point, Space

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SearchSettings:
    """start: proposals that the cost model alone orders. pool: points that are ranked for each later proposal.
    parents: how many of the best points mutate and mix. flip: one in so many proposals tries the other side of a flag.
    noise: standard deviation of a measured log ratio."""

    start: int = 16
    pool: int = 256
    parents: int = 6
    flip: int = 6
    noise: float = 0.01


class Search:
    """Proposes points of ``space``. The heuristic's own is known from the start: its score is 1."""

    def __init__(self, space: Space[Any], seed: int = 0, settings: SearchSettings | None = None) -> None:
        self._space, self._settings = space, settings or SearchSettings()
        self._rng = np.random.default_rng(seed)
        self._scores: dict[Point, float | None] = {space.start: 1.0}
        self._pending: list[Point] = []
        self._flags = [number for number, axis in enumerate(space.axes) if number and len(axis.choices) == 2]
        self._first = self._by_cost()

    def propose(self) -> Point | None:
        """The next point to measure, never one that was proposed before; None where none is left to be found."""
        point = self._next_by_cost() if self._proposed < self._settings.start else None
        if point is None:
            point = self._by_expected_improvement()
        if point is not None:
            self._pending.append(point)
        return point

    def tell(self, point: Point, score: float | None) -> None:
        """A point's time over the heuristic's; None where it failed."""
        if point in self._pending:
            self._pending.remove(point)
        self._scores[point] = score

    @property
    def best(self) -> tuple[Point, float]:
        """The best point told so far and its score."""
        return min(((p, s) for p, s in self._scores.items() if s is not None), key=lambda item: item[1])

    @property
    def _proposed(self) -> int:
        return len(self._scores) - 1 + len(self._pending)

    def _known(self, point: Point) -> bool:
        return point in self._scores or point in self._pending

    # ---- the start ----

    def _by_cost(self) -> list[Point]:
        """What the model likes best for each value of each flag, then for each choice of the first axis (the block
        structure); both in its order. What goes together with a choice is then seen together at least once."""
        found: dict[Point, None] = {}
        for numbers in (self._flags, [0] if self._space.axes else []):
            points = (self._best_with(number, i) for number in numbers for i in range(self._choices(number)))
            some = {point for point in points if point is not None}
            found |= dict.fromkeys(sorted(some, key=lambda point: (self._space.cost(point), point)))
        return list(found)

    def _choices(self, number: int) -> int:
        return len(self._space.axes[number].choices)

    def _best_with(self, fixed: int, choice: int) -> Point | None:
        """Coordinate descent of the predicted cost from the heuristic's point, with one axis held at ``choice``."""
        best = (*self._space.start[:fixed], choice, *self._space.start[fixed + 1 :])
        least = self._space.cost(best)
        improved = True
        while improved:
            improved = False
            for number in (number for number in range(len(self._space.axes)) if number != fixed):
                for index in range(self._choices(number)):
                    other = (*best[:number], index, *best[number + 1 :])
                    if (found := self._space.cost(other)) < least:
                        best, least, improved = other, found, True
        return best if least < math.inf else None

    def _next_by_cost(self) -> Point | None:
        return next((point for point in self._first if not self._known(point)), None)

    # ---- after it ----

    def _by_expected_improvement(self) -> Point | None:
        pool = self._other_side(self._pool())
        if not pool:
            return None
        told = list(self._scores)
        worst = max(score for score in self._scores.values() if score is not None)
        values = np.log([worst if (score := self._scores[point]) is None else score for point in told])
        model = _Process(self._space, self._settings.noise, told, values)
        if self._pending:
            # What is still being measured counts as if it came out as predicted, so that it is not tried twice.
            mean, _ = model.predict(self._pending)
            model = _Process(self._space, self._settings.noise, told + self._pending, np.append(values, mean))
        mean, deviation = model.predict(pool)
        gain = _expected_improvement(mean, deviation, float(values.min()))
        return pool[int(np.argmax(gain))]

    def _other_side(self, pool: list[Point]) -> list[Point]:
        """Now and then only points with one flag, each in turn, other than the best point's: a flag that helps only
        together with another change would not be tried again after its first failure."""
        turn, left = divmod(self._proposed, self._settings.flip)
        if left or not self._flags:
            return pool
        flag, best = self._flags[turn % len(self._flags)], self.best[0]
        rng, count = self._rng, self._settings.pool // 2
        flipped = (*best[:flag], 1 - best[flag], *best[flag + 1 :])
        near = [
            point for point in (self._space.mutate(flipped, rng) for _ in range(count)) if point[flag] != best[flag]
        ]
        found = dict.fromkeys([*(point for point in pool if point[flag] != best[flag]), *near])
        return [point for point in found if not self._known(point)] or pool

    def _pool(self) -> list[Point]:
        """Untried points: neighbours of the best, mutations and mixtures of the best few, and some from anywhere."""
        space, rng, settings = self._space, self._rng, self._settings
        ranked = sorted((score, point) for point, score in self._scores.items() if score is not None)
        parents = [point for _, point in ranked[: settings.parents]]
        found = dict.fromkeys(space.neighbours(parents[0]))
        for _ in range(settings.pool):
            one = parents[int(rng.integers(len(parents)))]
            draw = rng.random()
            if draw < 0.5:
                found[space.mutate(one, rng)] = None
            elif draw < 0.92:
                found[space.mutate(space.cross(one, parents[int(rng.integers(len(parents)))], rng), rng)] = None
            else:
                found[space.random(rng)] = None
        return [point for point in found if not self._known(point)]


class _Process:
    """A Gaussian process of log times: its mean is a multiple of the predicted log cost, its kernel Matern 5/2.

    Most of the kernel is a sum over the axes (Duvenaud, Nickisch and Rasmussen, Additive Gaussian Processes, 2011):
    the two stages of a layer, and mostly their knobs too, add to the time, so that what is learnt of one choice holds
    whatever the others are.
    """

    _SCALES = (1.5, 3.0, 6.0)
    _ADDITIVE = 0.75

    def __init__(self, space: Space[Any], noise: float, points: list[Point], values: Array) -> None:
        self._space, self._points = space, points
        costs = self._costs(points)
        centred = costs - costs.mean()
        # How much of the model's order the measurements confirm, drawn towards half of it.
        slope = (centred @ (values - values.mean()) + 0.5) / (centred @ centred + 1.0)
        self._slope = float(np.clip(slope, 0.0, 1.0))
        self._offset = float(np.mean(values - self._slope * costs))
        rest = values - self._slope * costs - self._offset
        self._amplitude = max(float(np.std(rest)), 0.02)
        self._x = space.features(points)
        fits = (self._fit(scale, noise, rest) for scale in self._SCALES)
        _, self._scale, self._lower, self._weights = max(fits, key=lambda fit: fit[0])

    def predict(self, points: list[Point]) -> tuple[Array, Array]:
        """Mean and standard deviation of the log time."""
        cross = self._kernel(self._space.features(points), self._x, self._scale)
        mean = self._offset + self._slope * self._costs(points) + cross @ self._weights
        explained = np.linalg.solve(self._lower, cross.T)
        variance = self._amplitude**2 - np.sum(explained**2, axis=0)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def _costs(self, points: list[Point]) -> Array:
        base = self._space.cost(self._space.start)
        return np.log([min(self._space.cost(point), 1e3 * base) / base for point in points])

    def _fit(self, scale: float, noise: float, rest: Array) -> tuple[float, float, Array, Array]:
        """Log marginal likelihood, and what prediction needs."""
        kernel = self._kernel(self._x, self._x, scale) + np.eye(len(rest)) * (noise**2 + 1e-9)
        lower = np.linalg.cholesky(kernel)
        weights = np.linalg.solve(lower.T, np.linalg.solve(lower, rest))
        likelihood = -0.5 * float(rest @ weights) - float(np.log(np.diag(lower)).sum())
        return likelihood, scale, lower, weights

    def _kernel(self, one: Array, other: Array, scale: float) -> Array:
        squares = (one[:, None, :] - other[None, :, :]) ** 2
        joint = _matern(np.sum(squares, axis=2), scale)
        # A single axis has less room for differences than all together.
        parts = [_matern(np.sum(squares[:, :, part], axis=2), scale / 2) for part in self._space.parts]
        single = np.sum(parts, axis=0) / max(1, len(parts))
        kernel: Array = self._amplitude**2 * (self._ADDITIVE * single + (1.0 - self._ADDITIVE) * joint)
        return kernel


def _matern(squares: Array, scale: float) -> Array:
    distance = np.sqrt(5.0 * squares) / scale
    kernel: Array = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    return kernel


def _expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Of the log time, below ``best``."""
    z = (best - mean) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    below = 0.5 * (1.0 + np.array([math.erf(value / math.sqrt(2.0)) for value in z]))
    return (best - mean) * below + deviation * density
