"""Passes: Program -> Program, verified after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import UnsupportedError
from sepcompile.ir.stages import Activation, Bias, Depthwise, Pad, Pointwise, Program, ScaleShift, Stage, Transpose
from sepcompile.ir.verify import verify

Weights = dict[str, NDArray[np.float32]]
IDENTITY = (0, 1, 2, 3)
INWARD = (0, 2, 3, 1)
OUTWARD = (0, 3, 1, 2)


def canonicalize(program: Program) -> Program:
    """The program in the one form that code generation reads.

    Activations stand on the NHWC side of the transposes, and linear activations, empty pads and transposes without
    effect are gone; adjacent pads are one. The result computes the same function.
    """
    stages = _inside_transposes(_without_idle(program.stages))
    return verify(program.with_stages(_merged(stages)))


def _without_idle(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return tuple(stage for stage in stages if not _is_idle(stage))


def _is_idle(stage: Stage) -> bool:
    if isinstance(stage, Activation):
        return stage.kind == "linear"
    if isinstance(stage, Pad):
        return not any((*stage.before, *stage.after))
    return isinstance(stage, Transpose) and stage.perm == IDENTITY


def _inside_transposes(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Activations after an output transpose move before it, those before an input transpose after it."""
    result: list[Stage] = []
    for stage in stages:
        if isinstance(stage, Activation):
            position = len(result)
            # The first transpose brings NCHW to NHWC: what follows it directly is already inside.
            while position > 1 and isinstance(before := result[position - 1], Transpose) and before.perm == OUTWARD:
                position -= 1
                stage = _with_axis(stage, None if stage.axis is None else before.perm[stage.axis])
            result.insert(position, stage)
        elif isinstance(stage, Transpose) and stage.perm == INWARD:
            start = len(result)
            while start > 0 and isinstance(result[start - 1], Activation):
                start -= 1
            early = [_moved_in(activation, stage) for activation in result[start:]]
            result[start:] = [stage, *early]
        else:
            result.append(stage)
    return tuple(result)


def _moved_in(stage: Stage, transpose: Transpose) -> Stage:
    assert isinstance(stage, Activation)
    return _with_axis(stage, None if stage.axis is None else transpose.perm.index(stage.axis))


def _with_axis(stage: Activation, axis: int | None) -> Activation:
    return replace(stage, axis=axis)


def _merged(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Adjacent pads as one, adjacent transposes that cancel as none."""
    result: list[Stage] = []
    for stage in stages:
        last = result[-1] if result else None
        if isinstance(stage, Pad) and isinstance(last, Pad):
            before = (last.before[0] + stage.before[0], last.before[1] + stage.before[1])
            after = (last.after[0] + stage.after[0], last.after[1] + stage.after[1])
            result[-1] = replace(stage, before=before, after=after)
        elif isinstance(stage, Transpose) and isinstance(last, Transpose) and _cancel(last, stage):
            result.pop()
        else:
            result.append(stage)
    return tuple(result)


def _cancel(first: Transpose, second: Transpose) -> bool:
    return tuple(first.perm[axis] for axis in second.perm) == IDENTITY


def fold_scale_shift(program: Program, weights: Mapping[str, NDArray[np.float32]]) -> tuple[Program, Weights]:
    """Every ``ScaleShift`` folded into the depthwise or pointwise stage before it, and its shift into a ``Bias``.

    With K the kernel, b the bias (0 where there is none): K' = K * scale and b' = shift + b * scale per output channel,
    computed in float64 and stored in float32. Raises ``UnsupportedError`` where no such stage stands directly before
    it (a ScaleShift after an activation or a pad cannot be folded).
    """
    arrays = dict(weights)
    stages = list(program.stages)
    while (index := next((i for i, s in enumerate(stages) if isinstance(s, ScaleShift)), None)) is not None:
        _fold_one(stages, arrays, index)
    read = _weights_read(stages)
    folded = verify(program.with_stages(tuple(stages)))
    return folded, {name: array for name, array in arrays.items() if name in read}


def _fold_one(stages: list[Stage], arrays: Weights, index: int) -> None:
    stage = stages[index]
    assert isinstance(stage, ScaleShift)
    scale, shift = (arrays[name].astype(np.float64) for name in (stage.scale, stage.shift))
    last = stages[index - 1] if index else None
    bias = last if isinstance(last, Bias) else None
    target = index - 2 if bias is not None else index - 1
    _scale_kernel(stages, arrays, target, scale, stage)
    if bias is None:
        name = _own_name(stage.shift, stages, arrays)
        arrays[name] = shift.astype(np.float32)
        stages[index] = Bias(name, stage.channels, stage.origin)
        return
    name = _own_name(bias.weight, stages, arrays)
    arrays[name] = np.asarray(shift + arrays[bias.weight].astype(np.float64) * scale, dtype=np.float32)
    stages[index - 1 : index + 1] = [replace(bias, weight=name)]


def _scale_kernel(
    stages: list[Stage], arrays: Weights, target: int, scale: NDArray[np.float64], stage: ScaleShift
) -> None:
    kernel = stages[target] if target >= 0 else None
    if not isinstance(kernel, Depthwise | Pointwise):
        raise UnsupportedError(f"{stage.origin}: a ScaleShift needs a depthwise or pointwise stage directly before it")
    name = _own_name(kernel.weight, stages, arrays)
    values = arrays[kernel.weight].astype(np.float64)
    per_output = scale.reshape(values.shape[2:]) if isinstance(kernel, Depthwise) else scale
    arrays[name] = np.asarray(values * per_output, dtype=np.float32)
    stages[target] = replace(kernel, weight=name)


def _own_name(name: str, stages: list[Stage], arrays: Weights) -> str:
    """``name`` where one stage reads it, else a free name: folding must not change another stage's weight."""
    if sum(name in _names(stage) for stage in stages) <= 1:
        return name
    number = 1
    while f"{name}_{number}" in arrays:
        number += 1
    return f"{name}_{number}"


def _weights_read(stages: list[Stage]) -> set[str]:
    return {name for stage in stages for name in _names(stage)}


def _names(stage: Stage) -> tuple[str, ...]:
    if isinstance(stage, ScaleShift):
        return stage.scale, stage.shift
    if isinstance(stage, Depthwise | Pointwise | Bias):
        return (stage.weight,)
    return (stage.weight,) if isinstance(stage, Activation) and stage.weight is not None else ()
