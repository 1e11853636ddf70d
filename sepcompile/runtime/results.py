"""What self-tests, benchmarks and verification report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Benchmark:
    """Times of single calls, in seconds."""

    median: float
    best: float
    mean: float
    calls: int
    batch: int
    threads: int
    variant: str

    @classmethod
    def of(cls, times: Sequence[float], *, batch: int, threads: int, variant: str) -> Benchmark:
        """Summary of ``times``."""
        ordered = sorted(times)
        middle, mean = ordered[len(ordered) // 2], sum(ordered) / len(ordered)
        return cls(middle, ordered[0], mean, len(ordered), batch, threads, variant)

    def __str__(self) -> str:
        return (
            f"{self.median * 1e6:.1f} us per call (median of {self.calls}; best {self.best * 1e6:.1f} us), "
            f"batch {self.batch}, {self.threads} thread(s), {self.variant}"
        )


@dataclass(frozen=True)
class SelfTestReport:
    """How far a result is from the reference: ``worst`` is the largest error divided by its tolerance (1 = limit)."""

    passed: bool
    max_error: float
    worst: float
    elements: int

    def __str__(self) -> str:
        word = "passed" if self.passed else "FAILED"
        return f"{word}: largest error {self.max_error:.3g}, {self.worst:.3g} of tolerance, {self.elements} elements"


@dataclass(frozen=True)
class SelfTest:
    """An input, some elements of the output that float64 arithmetic gives, and how far each may be off.

    The input of ``shape`` (with a batch) repeats ``pattern`` in C order; a residual of ``residual_shape`` repeats it
    backwards. ``positions`` are flat indices of the output,
    to which ``expected`` and ``tolerance`` belong: a few KB serve an image of any size.
    """

    pattern: np.ndarray
    shape: tuple[int, ...]
    positions: np.ndarray
    expected: np.ndarray
    tolerance: np.ndarray
    residual_shape: tuple[int, ...] | None = None
    residual_dtype: np.dtype | None = None

    @property
    def x(self) -> np.ndarray:
        """The input."""
        return np.resize(self.pattern, self.shape)

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The input, and the residual of a layer that takes one."""
        if self.residual_shape is None:
            return (self.x,)
        return self.x, np.resize(self.pattern[::-1].astype(self.residual_dtype), self.residual_shape)

    def check(self, layer: Callable[..., Any]) -> SelfTestReport:
        """Runs ``layer`` on the input and compares. NaN must meet NaN, and infinities their like."""
        got = np.asarray(layer(*self.inputs)).reshape(-1)
        if self.positions.size and int(self.positions.max()) >= got.size:
            return SelfTestReport(False, float("inf"), float("inf"), got.size)
        got = got[self.positions].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            same = (got == self.expected) | (np.isnan(got) & np.isnan(self.expected))
            error = np.where(same, 0.0, np.abs(got - self.expected))
            ratio = np.where(same, 0.0, error / self.tolerance)
        worst = float(np.max(ratio, initial=0.0))  # NaN where only one side is NaN
        return SelfTestReport(bool(worst <= 1.0), float(np.max(error, initial=0.0)), worst, got.size)


@dataclass(frozen=True)
class VariantReport:
    """One variant in a verification. ``missing`` names CPU features this machine lacks; the self-test then did not run.

    ``problem`` says why a variant that should run did not. ``for_c``: it is for C programs on microcontrollers, and
    runs on no machine with Python.
    """

    target: str
    missing: tuple[str, ...]
    selftest: SelfTestReport | None
    problem: str = ""
    for_c: bool = False

    @property
    def runs(self) -> bool:
        """Whether this machine ran the variant."""
        return self.selftest is not None


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found; files, manifest and tensors were right, or it would have raised."""

    path: str
    name: str
    files: int
    nbytes: int
    variants: tuple[VariantReport, ...]

    @property
    def passed(self) -> bool:
        """At least one variant ran, and all that ran passed; or there are none but for microcontrollers."""
        tests = [variant.selftest for variant in self.variants if variant.selftest is not None]
        ran = bool(tests) or all(variant.for_c for variant in self.variants)
        return ran and all(test.passed for test in tests) and not any(v.problem for v in self.variants)
