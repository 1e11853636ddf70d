"""The self-test that travels with an artifact: an input, samples of its float64 output, and how far each may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.ir.activations import KINDS, apply
from sepcompile.ir.passes import canonicalize
from sepcompile.ir.reference import error_bound, evaluate, roundoffs
from sepcompile.ir.rounding import round_bfloat16
from sepcompile.ir.stages import Activation, Depthwise, Pad, Program, Stage, TensorSpec, Transpose, input_shape
from sepcompile.runtime.results import SelfTest

Array = NDArray[Any]
Weights = Mapping[str, NDArray[np.float32]]

SEED = 20
PERIOD = 4093  # a prime, so that no row or channel of an image sees the same values as its neighbour
SAMPLES = 2048
_NOTHING = (np.empty(0, np.int64), np.empty(0), np.empty(0))
WHOLE_ELEMENTS = 200_000  # of input and output: up to here the reference computes the whole image


def make_selftest(program: Program, weights: Weights, precision: str = "float32") -> SelfTest:
    """A self-test of one batch, with the tolerance of kernels of ``precision``.

    The reference of a large image is computed at sampled pixels only: their windows, as a batch of tiny images.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.standard_normal(PERIOD)
    pattern = round_bfloat16(drawn) if program.input.dtype == "bfloat16" else drawn.astype(program.input.dtype)
    shape = (program.batch or 1, *(size or 1 for size in program.input.shape[1:]))
    x = np.resize(pattern, shape)
    roundoff = roundoffs(program, precision)
    test = SelfTest(pattern, shape, *_NOTHING, *_second_input(program, shape[0]))
    second = test.inputs[1] if program.residual else None
    sampled = _sampled_pixels(canonicalize(program), weights, x, second, roundoff, rng)
    if sampled is None:
        expected = evaluate(program, weights, x, second).reshape(-1)
        bound = error_bound(program, weights, x, roundoff[0], second, roundoff[1]).reshape(-1)
        positions = np.arange(expected.size)
    else:
        positions, expected, bound = sampled
    some = np.sort(rng.choice(positions.size, min(SAMPLES, positions.size), replace=False))
    return replace(test, positions=positions[some].astype(np.int64), expected=expected[some], tolerance=bound[some])


def _second_input(program: Program, batch: int) -> tuple[tuple[int, ...], np.dtype] | tuple[None, None]:
    """Shape and dtype of the residual."""
    spec = program.residual
    if spec is None:
        return None, None
    return (batch, *(size or 1 for size in spec.shape[1:])), np.dtype(spec.dtype)


def _sampled_pixels(
    program: Program, weights: Weights, x: Array, second: Array | None, roundoff: tuple[float, float],
    rng: np.random.Generator
) -> tuple[Array, Array, Array] | None:
    """(flat positions, expected, bound) of all channels of some pixels; None where only the whole image will do."""
    elements = x.size + math.prod(size or 1 for size in program.output.shape)
    if elements <= WHOLE_ELEMENTS or not _is_local(program, weights):
        return None
    stages = list(program.stages)
    batch, rows, columns, channels, first = _output_geometry(program)
    count = max(16, -(-SAMPLES // channels))
    pixels = np.unique(np.concatenate([[0, rows * columns - 1], rng.integers(0, rows * columns, count)]))
    images = rng.integers(0, batch, pixels.size)
    windows = _windows(program, weights, x, images, pixels // columns, pixels % columns)
    start = next(i for i, stage in enumerate(stages) if isinstance(stage, Depthwise))
    inner = tuple(stage for stage in stages[start:] if not isinstance(stage, Transpose))
    local = replace(
        program,
        input=TensorSpec((None, *windows.shape[1:]), program.input.dtype),
        output=TensorSpec((None, 1, 1, channels), program.output.dtype),
        stages=inner,
    )
    channel = np.arange(channels)
    if first:
        flat = (images[:, None] * channels + channel) * rows * columns + pixels[:, None]
    else:
        flat = (images[:, None] * rows * columns + pixels[:, None]) * channels + channel
    if second is not None:
        second = second.reshape(batch, rows * columns, channels)[images, pixels][:, None, None, :]
    values = evaluate(local, weights, windows, second)
    bounds = error_bound(local, weights, windows, roundoff[0], second, roundoff[1])
    return flat.reshape(-1), values.reshape(-1), bounds.reshape(-1)


def _is_local(program: Program, weights: Weights) -> bool:
    """Whether an output pixel depends on nothing but its window: no activation along H or W, no alpha per pixel."""
    for stage in program.stages:
        if isinstance(stage, Activation):
            if KINDS[stage.kind].is_rowwise and stage.axis != 3:
                return False
            if stage.weight is not None and weights[stage.weight].shape[:2] != (1, 1):
                return False
    return any(isinstance(stage, Depthwise) for stage in program.stages)


def _output_geometry(program: Program) -> tuple[int, int, int, int, bool]:
    """(batch, rows, columns, channels) of the output, and whether channels come first in it."""
    sizes = [size or 1 for size in program.output.shape]
    first = isinstance(program.stages[-1], Transpose)
    batch, channels = sizes[0], sizes[1] if first else sizes[-1]
    spatial = sizes[2:] if first else sizes[1:-1]
    rows, columns = spatial if len(spatial) == 2 else (1, spatial[0])
    return batch, rows, columns, channels, first


def _windows(program: Program, weights: Weights, x: Array, images: Array, rows: Array, columns: Array) -> Array:
    """The padded input that each output pixel reads, (pixels, span_h, span_w, C)."""
    value = x.reshape(x.shape[0], *(int(size or 1) for size in input_shape(program)[1:]))
    depthwise: Depthwise | None = None
    for stage in program.stages:
        if isinstance(stage, Depthwise):
            depthwise = stage
            break
        value = _before(stage, value, weights)
    assert depthwise is not None
    spans = [(k - 1) * d + 1 for k, d in zip(depthwise.kernel_size, depthwise.dilation_rate, strict=True)]
    (sh, sw), (span_h, span_w) = depthwise.strides, spans
    return np.stack([
        value[n, y * sh : y * sh + span_h, z * sw : z * sw + span_w]
        for n, y, z in zip(images, rows, columns, strict=True)
    ])  # fmt: skip


def _before(stage: Stage, value: Array, weights: Weights) -> Array:
    """A stage in front of the depthwise one."""
    if isinstance(stage, Transpose):
        return value.transpose(stage.perm)
    if isinstance(stage, Pad):
        return np.pad(value, ((0, 0), *zip(stage.before, stage.after, strict=True), (0, 0)))
    assert isinstance(stage, Activation)
    alpha = None if stage.weight is None else weights[stage.weight].astype(np.float64)
    return apply(stage, value.astype(np.float64), alpha).astype(np.float64)
