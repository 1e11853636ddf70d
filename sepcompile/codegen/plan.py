"""What code generation hands to the artifact writer: the steps of one variant and the memory they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """One kernel call per image, split over ``tasks`` independent tasks.

    ``operands`` are names in the kernel's own order: ``"x"`` and ``"y"`` (the image's input and output), ``"w:<name>"``
    (a packed weight), ``"t:<name>"`` (an intermediate buffer). After them come the scratch pointer and the task range:
    ``void symbol(const void* operands..., uint8_t* scratch, int32_t task_begin, int32_t task_end)``.
    ``scratch_bytes`` is per thread. ``macs_per_task`` tells the entry point how small a range is worth a fork.
    """

    symbol: str
    operands: tuple[str, ...]
    tasks: int
    scratch_bytes: int
    macs_per_task: int


@dataclass(frozen=True)
class Plan:
    """The steps that compute one image, in order; ``intermediates`` maps a ``t:`` name to its bytes per image."""

    steps: tuple[Step, ...]
    intermediates: tuple[tuple[str, int], ...]
    x_bytes: int
    y_bytes: int


@dataclass(frozen=True)
class CompiledKernels:
    """Object code of a layer's kernels and how to call them; ``tir`` and ``assembly`` are texts for ``inspect``."""

    plan: Plan
    object_code: bytes
    tir: str = ""
    assembly: str = ""


@dataclass(frozen=True)
class Compiled:
    """One variant: its kernels, how to call them, and the weights in the layout they read."""

    target: str
    plan: Plan
    object_code: bytes
    weights: Mapping[str, np.ndarray]
    schedule: Mapping[str, object]
    schedule_source: str
    tir: str = ""
    assembly: str = ""
