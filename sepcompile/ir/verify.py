"""The verifier: what every program must satisfy, checked after reading and after every pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sepcompile.errors import ConfigError, WeightError
from sepcompile.ir import activations, shapes
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Depthwise,
    Origin,
    Pad,
    Pointwise,
    Program,
    Residual,
    ScaleShift,
    Stage,
    Transpose,
)

DTYPES = ("float32", "float16", "bfloat16")
# Kernels index one image and one weight with int32.
MAX_ELEMENTS = 2**31 - 1


def verify(program: Program) -> Program:
    """Returns ``program`` unchanged, or raises ``ConfigError`` naming the stage, its field and the value.

    Checked: edge shapes and dtypes, every stage's channels, sizes and parameters against the shape that reaches it,
    activation kinds with all their parameters, an even split for ``glu``, at least one output element along every axis,
    tensors that int32 can index, and that the stages compute exactly ``program.output.shape``.
    """
    _check_edge(program)
    for placed in shapes.place(_checked_stages(program)):
        _check_placed(placed)
        _check_size(placed.after[1:], placed.stage.origin, f"{type(placed.stage).__name__} output")
    for name, shape in shapes.weight_shapes(program).items():
        if not name:
            raise ConfigError(f"{program.name}: a stage reads a weight without a name")
        _check_size(shape, Origin(program.name), f"weight {name!r}")
    _check_residual(program)
    computed = shapes.output_shape(program)
    if computed != program.output.shape:
        raise ConfigError(f"{program.name}: the stages compute {computed}, but output.shape={program.output.shape}")
    return program


def verify_weights(program: Program, weights: Mapping[str, np.ndarray]) -> None:
    """Raises ``WeightError`` unless ``weights`` are exactly the program's, float32 and of the right shapes."""
    expected = shapes.weight_shapes(program)
    if set(expected) != set(weights):
        raise WeightError(f"{program.name}: weights are {sorted(weights)}, the program reads {sorted(expected)}")
    flexible = {s.weight for s in program.stages if isinstance(s, Activation)}
    for name, shape in expected.items():
        array = weights[name]
        fits = array.shape == shape or (name in flexible and _is_reduced(array.shape, shape))
        if not fits or array.dtype != np.float32:
            raise WeightError(f"{program.name}: weight {name!r} is {array.dtype}{array.shape}, expected float32{shape}")


def _is_reduced(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    return len(shape) == len(full) and all(a in (1, b) for a, b in zip(shape, full, strict=True))


def _check_residual(program: Program) -> None:
    """A second input has the output's shape and layout: nothing after it may change them."""
    found = [placed for placed in shapes.place(program) if isinstance(placed.stage, Residual)]
    if len(found) > 1:
        raise ConfigError(f"{found[1].stage.origin}: a program has at most one Residual stage")
    for placed in found:
        here = shapes.unlift(placed.after, placed.layout, len(program.input.shape))
        if here != program.output.shape or any(isinstance(stage, Transpose) for stage in program.stages):
            what = f"Residual adds to {here}, the output is {program.output.shape}"
            raise ConfigError(f"{placed.stage.origin}: {what}; they must be the same tensor in channels_last layout")


def _check_edge(program: Program) -> None:
    for label, spec in (("input", program.input), ("output", program.output)):
        if spec.dtype not in DTYPES:
            raise ConfigError(f"{program.name}: {label}.dtype={spec.dtype!r} must be one of {', '.join(DTYPES)}")
        if len(spec.shape) not in (3, 4):
            raise ConfigError(f"{program.name}: {label}.shape={spec.shape} must have 3 or 4 axes")
        if not all(_is_size(size) for size in spec.shape[1:]):
            raise ConfigError(f"{program.name}: {label}.shape={spec.shape} needs integers >= 1 after the batch")
        if spec.shape[0] is not None and not _is_size(spec.shape[0]):
            raise ConfigError(f"{program.name}: {label}.shape={spec.shape}: the batch must be None or an integer >= 1")
    if program.input.shape[0] != program.output.shape[0] or len(program.input.shape) != len(program.output.shape):
        edge = f"input.shape={program.input.shape} and output.shape={program.output.shape}"
        raise ConfigError(f"{program.name}: {edge} must have the same rank and batch")
    _check_size(program.input.shape[1:], Origin(program.name), "input")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_size(dims: tuple[int | None, ...], where: Origin, what: str) -> None:
    elements = math.prod(size or 1 for size in dims)
    if elements > MAX_ELEMENTS:
        raise ConfigError(f"{where}: {what} of shape {dims} has {elements} elements, more than {MAX_ELEMENTS}")


def _checked_stages(program: Program) -> Program:
    for stage in program.stages:
        _check_alone(stage)
    return program


def _check_alone(stage: Stage) -> None:
    """What a stage must satisfy whatever its input is."""
    if isinstance(stage, Transpose):
        if sorted(stage.perm) != [0, 1, 2, 3] or stage.perm[0] != 0:
            raise ConfigError(f"{stage.origin}: Transpose perm={stage.perm} must permute axes 1, 2, 3 and keep 0")
    elif isinstance(stage, Pad):
        if min(*stage.before, *stage.after) < 0:
            raise ConfigError(f"{stage.origin}: Pad before={stage.before} after={stage.after} must not be negative")
    elif isinstance(stage, Depthwise):
        for name in ("kernel_size", "strides", "dilation_rate"):
            if min(getattr(stage, name)) < 1:
                raise ConfigError(f"{stage.origin}: Depthwise {name}={getattr(stage, name)} must be >= 1")
        if stage.depth_multiplier < 1:
            raise ConfigError(f"{stage.origin}: Depthwise depth_multiplier={stage.depth_multiplier} must be >= 1")
    elif isinstance(stage, Pointwise):
        if stage.filters < 1:
            raise ConfigError(f"{stage.origin}: Pointwise filters={stage.filters} must be >= 1")
    elif isinstance(stage, Activation):
        _check_activation(stage)


def _check_activation(stage: Activation) -> None:
    values = activations.check(stage.kind, dict(stage.params), stage.axis, stage.weight, stage.origin)
    if tuple(sorted(values.items())) != stage.params:
        raise ConfigError(f"{stage.origin}: activation {stage.kind!r} needs every parameter, sorted: {dict(values)}")
    if stage.axis is not None and stage.axis not in (1, 2, 3):
        raise ConfigError(f"{stage.origin}: activation {stage.kind!r} along axis={stage.axis}; accepted: 1, 2, 3")


def _check_placed(placed: shapes.Placed) -> None:
    """What a stage must satisfy together with the tensor that reaches it."""
    stage, (_, *sizes) = placed.stage, placed.after
    name = type(stage).__name__
    if isinstance(stage, Pad | Depthwise | Pointwise | Bias | ScaleShift) and placed.layout != shapes.NHWC:
        raise ConfigError(f"{stage.origin}: {name} needs an NHWC tensor; a Transpose must come first")
    if isinstance(stage, Depthwise | Pointwise | Bias | ScaleShift) and stage.channels != placed.before[3]:
        raise ConfigError(f"{stage.origin}: {name} channels={stage.channels}, but its input has {placed.before[3]}")
    if min(sizes) < 1:
        raise ConfigError(f"{stage.origin}: {name} turns {placed.before} into {placed.after}: an output axis below 1")
