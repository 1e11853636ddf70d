"""The tuner: search, measure, confirm, and a verdict that was measured on its own.

Everything that happens is a function of the seed and of the journal's outcomes, asked in a fixed order: proposal n is
made from the outcomes of all proposals before n - ``width``. A search that was killed is resumed by running it again:
it gets the same answers from the journal until it comes to the first question that was never answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sepcompile.errors import TuningError
from sepcompile.tuning.database import TunedRecord
from sepcompile.tuning.lab import Lab
from sepcompile.tuning.runner import Failure, Measurement
from sepcompile.tuning.search import Search
from sepcompile.tuning.space import Point, Space
from sepcompile.tuning.stats import LEAST_GAIN, Comparison, compare

CONFIRM_ROUNDS = 24
FINAL_LAUNCHES = 3
FINAL_MARGIN = 1.5
CONTENDERS = 3
NOISY = 0.05


@dataclass(frozen=True)
class Trial:
    """One proposal: its record, its time over the default's as far as the search knows, or why it has none."""

    number: int
    record: dict[str, object]
    ratio: float | None
    seconds: float | None
    failure: Failure | None
    best: float


@dataclass(frozen=True)
class Progress:
    """Where a search is. ``best`` is the incumbent's time over the default's, ``left_s`` a guess."""

    trial: int
    trials: int
    best: float
    best_seconds: float
    default_seconds: float
    failures: int
    elapsed_s: float
    left_s: float
    stage: str
    latest: Trial | None = None


@dataclass
class SearchResult:
    """What a search found. ``schedule`` is the default where nothing beat it by more than the noise."""

    schedule: Any
    comparison: Comparison
    seconds: float
    default_seconds: float
    trials: list[Trial]
    interrupted: bool
    notes: list[str] = field(default_factory=list)

    @property
    def gain(self) -> bool:
        """Whether the schedule is another than the default."""
        return self.comparison.ratio < 1.0

    def to_record(self, layer: str, target: str, threads: int) -> TunedRecord:
        """For the database."""
        return TunedRecord(
            layer, target, self.schedule.to_json(), self.comparison.ratio, self.comparison.noise, self.seconds,
            self.default_seconds, threads, len(self.trials), self.gain,
        )  # fmt: skip


@dataclass(frozen=True)
class SearchOptions:
    """trials: proposals in all. time_budget_s: no proposals after it. threads: of one call, as it is tuned for.

    all_threads: a winner must not be slower with so many either. width: proposals under way at a time.
    """

    trials: int = 64
    time_budget_s: float | None = None
    seed: int = 0
    threads: int = 1
    all_threads: int = 1
    width: int = 5


class Tuner:
    """One search in ``space`` with the answers of ``lab``."""

    def __init__(
        self, space: Space[Any], lab: Lab, options: SearchOptions, progress: Callable[[Progress], None]
    ) -> None:
        self._space, self._lab, self._options, self._progress = space, lab, options, progress
        self._search = Search(space, options.seed)
        self._start = time.monotonic()
        self._incumbent: tuple[Point, float] = (space.start, 1.0)
        self._default_seconds = 0.0
        self._trials: list[Trial] = []
        self._scores: dict[Point, float] = {}
        self._notes: list[str] = []
        self._interrupted = False

    def run(self) -> SearchResult:
        """Search until the trials or the time are used up, or until ^C; then measure the winner against the default.

        Raises ``TuningError`` where the default itself fails or nothing can be measured, and ``KeyboardInterrupt`` for
        a ^C before or after the search itself.
        """
        self._baseline()
        try:
            self._walk()
        except KeyboardInterrupt:
            self._interrupted = True
            self._notes.append(f"interrupted after {len(self._trials)} of {self._options.trials} trials")
        self._report("final")
        return self._verdict()

    def _baseline(self) -> None:
        """The default beside itself: that it works, what it takes, and how far equal things seem to differ."""
        self._report("baseline")
        outcome = self._lab.ask(self._space.default, self._space.default, "baseline").result()
        if outcome.failure is not None:
            raise TuningError(f"the heuristic's own schedule fails: {outcome.failure}")
        self._default_seconds = median(outcome.incumbent_seconds)
        off = abs(outcome.comparison.ratio - 1.0) + outcome.comparison.noise
        if off > NOISY:
            self._notes.append(f"this machine is not quiet: the same code differs by {100 * off:.0f} %")

    # ---- the search ----

    def _walk(self) -> None:
        under_way: deque[tuple[Point, Point, float, Future[Measurement]]] = deque()
        proposals = self._proposals()
        while True:
            while len(under_way) < self._options.width and (point := next(proposals, None)) is not None:
                against, score = self._incumbent
                future = self._lab.ask(self._space.record(point), self._space.record(against))
                under_way.append((point, against, score, future))
            if not under_way:
                return
            point, against, score, future = under_way.popleft()
            self._take(point, against, score, future.result())

    def _proposals(self) -> Iterator[Point]:
        options = self._options
        for _ in range(options.trials):
            if options.time_budget_s is not None and time.monotonic() - self._start > options.time_budget_s:
                self._notes.append(f"the time budget of {options.time_budget_s:g} s was used up")
                return
            point = self._search.propose()
            if point is None:
                self._notes.append("the space holds no further record that the rules let pass")
                return
            yield point

    def _take(self, point: Point, against: Point, score: float, outcome: Measurement) -> None:
        """Learn from an outcome; a challenger that seems faster than the incumbent is measured again, for longer."""
        record = self._space.record(point)
        ratio = None
        if outcome.failure is None:
            ratio = outcome.comparison.ratio * score
            if outcome.comparison.faster and ratio < self._incumbent[1] * (1.0 - LEAST_GAIN):
                ratio = self._challenge(point, ratio)
            self._scores[point] = ratio
        self._search.tell(point, ratio)
        if self._incumbent[0] != point:
            self._lab.forget(record)
        seconds = median(outcome.seconds) if outcome.failure is None else None
        number = len(self._trials) + 1
        trial = Trial(number, record.to_json(), ratio, seconds, outcome.failure, self._incumbent[1])
        self._trials.append(trial)
        self._report("search", trial)

    def _challenge(self, point: Point, ratio: float) -> float:
        """The ratio as a longer measurement against the incumbent of now has it; the faster one is incumbent then."""
        incumbent, score = self._incumbent
        mine, other = self._space.record(point), self._space.record(incumbent)
        outcome = self._lab.ask(mine, other, "confirm", rounds=CONFIRM_ROUNDS, stop_ratio=0.0).result()
        if outcome.failure is not None:
            return ratio
        ratio = outcome.comparison.ratio * score
        if outcome.comparison.faster:
            self._incumbent = (point, ratio)  # the old one's artifact stays: questions under way still need it
        return ratio

    # ---- the verdict ----

    def _verdict(self) -> SearchResult:
        """The best candidate that beats the default in launches of their own; the default where none does."""
        ranked = sorted(self._scores, key=lambda point: (self._scores[point], point))
        first = [self._incumbent[0]] if self._incumbent[0] != self._space.start else []
        contenders = [*first, *(point for point in ranked if point not in first)]
        for point in contenders[:CONTENDERS]:
            if self._scores[point] > 1.0 - LEAST_GAIN:
                break
            found = self._final(point)
            if found is not None:
                return found
        default, seconds = self._space.default, self._default_seconds
        return SearchResult(
            default, Comparison(1.0, 0.0), seconds, seconds, self._trials, self._interrupted, self._notes
        )

    def _final(self, point: Point) -> SearchResult | None:
        """What several launches say about a point; None unless it gains, and loses nothing with all threads."""
        options, record = self._options, self._space.record(point)
        launches = []
        for attempt in range(FINAL_LAUNCHES):
            outcome = self._last(record, attempt, options.threads)
            if outcome is None:
                return None
            launches.append(outcome)
        ratios = [launch.comparison.ratio for launch in launches]
        joined = compare(
            [t for launch in launches for t in launch.seconds],
            [t for launch in launches for t in launch.incumbent_seconds],
        )
        # Launches differ by where their memory lies, which no number of rounds within one of them shows. Of many
        # candidates the one that luck favoured most is looked at, so that the margin is wider than for any one.
        comparison = Comparison(median(ratios), max(FINAL_MARGIN * joined.noise, (max(ratios) - min(ratios)) / 2))
        if not comparison.faster or max(ratios) >= 1.0:
            return None
        if options.all_threads != options.threads:
            outcome = self._last(record, FINAL_LAUNCHES, options.all_threads)
            if outcome is None or outcome.comparison.slower:
                self._notes.append(f"a record was left out: it is slower with {options.all_threads} threads")
                return None
        mine = median(t for launch in launches for t in launch.seconds)
        other = median(t for launch in launches for t in launch.incumbent_seconds)
        return SearchResult(record, comparison, mine, other, self._trials, self._interrupted, self._notes)

    def _last(self, record: Any, attempt: int, threads: int) -> Measurement | None:
        outcome = self._lab.ask(
            record, self._space.default, "final", attempt, threads=threads, rounds=CONFIRM_ROUNDS, stop_ratio=0.0
        ).result()
        return None if outcome.failure is not None else outcome

    def _report(self, stage: str, latest: Trial | None = None) -> None:
        options, done = self._options, len(self._trials)
        elapsed = time.monotonic() - self._start
        left = elapsed / done * (options.trials - done) if done else 0.0
        if options.time_budget_s is not None:
            left = min(left, max(0.0, options.time_budget_s - elapsed)) if done else options.time_budget_s
        best = self._incumbent[1]
        failures = sum(trial.failure is not None for trial in self._trials)
        self._progress(
            Progress(
                done, options.trials, best, best * self._default_seconds, self._default_seconds, failures, elapsed,
                left, stage, latest,
            )
        )  # fmt: skip
