"""What code generation hands to the artifact writer: the steps of one variant and the memory they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESIDUAL = "r"
"""The operand that is the second input, of the output's shape and dtype."""


@dataclass(frozen=True)
class Step:
    """One kernel call per image, split over ``tasks`` independent tasks.

    ``operands`` are names in the kernel's own order: ``"x"`` and ``"y"`` (the image's input and output), ``"r"`` (its
    residual, of the size of ``"y"``), ``"w:<name>"`` (a packed weight), ``"t:<name>"`` (an intermediate buffer). After
    them come the scratch pointer and the task range:
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

    @property
    def residual(self) -> bool:
        """Whether the layer has a second input."""
        return any(RESIDUAL in step.operands for step in self.steps)


@dataclass(frozen=True)
class Launch:
    """How a step's kernel is launched on a GPU for ``batch`` images.

    ``rows`` = batch * ``unit``; the grid is ceil(rows / ``tile``) * ``times`` blocks along x and ``grid_y`` along y.
    The step's operands are the kernel's parameters in order; among them ``"rows"`` and ``"blocks"`` are int32 scalars,
    the latter the number of blocks along x. ``most_batch``: more images would overflow the kernel's int32 indices.
    """

    unit: int
    tile: int
    times: int
    grid_y: int
    block: tuple[int, int, int]
    shared_bytes: int
    most_batch: int


@dataclass(frozen=True)
class CompiledKernels:
    """Object code of a layer's kernels and how to call them; ``tir`` and ``assembly`` are texts for ``inspect``.

    A GPU has no object code but ``images``, cubins by architecture (``sm_90``) and PTX (``compute_75``), and a launch
    for each step.
    """

    plan: Plan
    object_code: bytes
    tir: str = ""
    assembly: str = ""
    launches: tuple[Launch, ...] = ()
    images: tuple[tuple[str, bytes], ...] = ()


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
    launches: tuple[Launch, ...] = ()
    images: tuple[tuple[str, bytes], ...] = ()
    precision: str = "float32"
