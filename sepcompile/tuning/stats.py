"""How two sets of times compare, and whether a difference is more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

# Differences below this are not worth a claim, however often they are measured: the same code placed on other pages
# of memory moves by as much.
LEAST_GAIN = 0.01
# Standard deviations of a normal distribution that a median absolute deviation is worth, and that a median's standard
# error is above a mean's (pi / 2 under the root).
_MAD_TO_SIGMA = 1.4826
_MEDIAN_ERROR = 1.2533
_SIGMAS = 2.0


@dataclass(frozen=True)
class Comparison:
    """The median of the rounds' ratios candidate / incumbent, and two standard errors of it."""

    ratio: float
    noise: float

    @property
    def faster(self) -> bool:
        """Whether the candidate gains more than the noise."""
        return self.ratio < 1.0 - max(self.noise, LEAST_GAIN)

    @property
    def slower(self) -> bool:
        """Whether the candidate loses more than the noise."""
        return self.ratio > 1.0 + max(self.noise, LEAST_GAIN)


def compare(seconds: Sequence[float], incumbent_seconds: Sequence[float]) -> Comparison:
    """Compare paired rounds. Pairing takes out what slows both down alike, the median what hits single rounds."""
    ratios = [mine / other for mine, other in zip(seconds, incumbent_seconds, strict=True)]
    middle = median(ratios)
    spread = median(abs(ratio - middle) for ratio in ratios) * _MAD_TO_SIGMA
    return Comparison(middle, _SIGMAS * _MEDIAN_ERROR * spread / sqrt(len(ratios)))
