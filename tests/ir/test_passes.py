"""Verifier, printer, passes and the reference on programs made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sepcompile.errors import ConfigError, InputError, UnsupportedError, WeightError
from sepcompile.ir import activations, passes, printer, reference, shapes
from sepcompile.ir.stages import (
    Bias,
    Depthwise,
    Pad,
    Pointwise,
    Program,
    ScaleShift,
    Stage,
    TensorSpec,
    Transpose,
)
from sepcompile.ir.verify import verify, verify_weights

RNG = np.random.default_rng(0)
DW = Depthwise("k", (3, 3), (2, 1), (1, 2), 3, 2)
PW = Pointwise("p", 6, 4)
WEIGHTS = {
    "k": RNG.normal(size=(3, 3, 3, 2)).astype("float32"),
    "p": RNG.normal(size=(6, 4)).astype("float32"),
    "b": RNG.normal(size=6).astype("float32"),
    "c": RNG.normal(size=4).astype("float32"),
    "scale": RNG.normal(size=4).astype("float32"),
    "shift": RNG.normal(size=4).astype("float32"),
    "scale6": RNG.normal(size=6).astype("float32"),
    "shift6": RNG.normal(size=6).astype("float32"),
    "alpha": RNG.normal(size=(1, 5, 4)).astype("float32"),
}


def program(*stages: Stage, shape: tuple[int | None, ...] = (None, 9, 9, 3)) -> Program:
    spec = TensorSpec(shape, "float32")
    draft = Program("test", spec, spec, stages)
    return replace(draft, output=TensorSpec(shapes.output_shape(draft), "float32"))


def first(*stages: Stage) -> Program:
    return program(Transpose((0, 2, 3, 1)), *stages, shape=(None, 3, 9, 9))


X = RNG.normal(size=(2, 9, 9, 3))
X_FIRST = X.transpose(0, 3, 1, 2)


def same(a: Program, wa: dict[str, Any], b: Program, wb: dict[str, Any], x: np.ndarray, tolerance: float = 0) -> None:
    got, want = reference.evaluate(a, wa, x), reference.evaluate(b, wb, x)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_block_with_everything_between() -> None:
    """Pre-activation before the pad, bias and activation between the stages: against a direct loop."""
    relu6, elu = activations.make("relu", {"max_value": 6.0}), activations.make("elu")
    block = verify(program(elu, Pad((1, 2), (1, 2)), DW, Bias("b", 6), relu6, PW, Bias("c", 4)))
    got = reference.evaluate(block, WEIGHTS, X)
    z = np.pad(np.where(X > 0, X, np.expm1(X)), ((0, 0), (1, 1), (2, 2), (0, 0)))
    for n, h, w in ((0, 0, 0), (1, 3, 4), (0, 4, 8)):
        d = np.zeros((3, 2))
        for y in range(3):
            for x in range(3):
                d += z[n, h * 2 + y, w + 2 * x][:, None] * WEIGHTS["k"][y, x]
        hidden = np.clip(d.reshape(6) + WEIGHTS["b"], 0, 6)
        np.testing.assert_allclose(got[n, h, w], hidden @ WEIGHTS["p"] + WEIGHTS["c"], rtol=1e-12)


def test_canonicalize_moves_activations_inside() -> None:
    out = Transpose((0, 3, 1, 2))
    for kind, axis in (("softmax", 3), ("glu", 1), ("sparsemax", 2)):
        after = first(DW, PW, out, activations.make(kind, axis=axis))
        canonical = passes.canonicalize(after)
        assert isinstance(canonical.stages[-1], Transpose)
        assert canonical.stages[-2].axis == {3: 2, 1: 3, 2: 1}[axis]  # type: ignore[union-attr]
        same(after, WEIGHTS, canonical, WEIGHTS, X_FIRST)
    before = program(activations.make("softmax", axis=1), *first(DW).stages, shape=(None, 3, 9, 9))
    canonical = passes.canonicalize(before)
    assert isinstance(canonical.stages[0], Transpose)
    same(before, WEIGHTS, canonical, WEIGHTS, X_FIRST)


def test_canonicalize_moves_prelu() -> None:
    after = first(DW, PW, Transpose((0, 3, 1, 2)), activations.make("prelu", weight="alpha"))
    same(after, WEIGHTS, passes.canonicalize(after), WEIGHTS, X_FIRST)


def test_canonicalize_drops_and_merges() -> None:
    idle = (activations.make("linear"), Pad((0, 0), (0, 0)), Transpose((0, 1, 2, 3)))
    there_and_back = (Transpose((0, 3, 1, 2)), Transpose((0, 2, 3, 1)))
    given = program(*idle, Pad((1, 0), (0, 1)), Pad((0, 2), (1, 0)), DW, *there_and_back, activations.make("linear"))
    canonical = passes.canonicalize(given)
    assert canonical.stages == (Pad((1, 2), (1, 1)), DW)
    same(given, WEIGHTS, canonical, WEIGHTS, X)


@pytest.mark.parametrize("bias", [(), (Bias("c", 4),)])
def test_fold_into_pointwise(bias: tuple[Stage, ...]) -> None:
    given = program(DW, PW, *bias, ScaleShift("scale", "shift", 4), activations.make("relu"))
    folded, weights = passes.fold_scale_shift(given, WEIGHTS)
    assert not any(isinstance(stage, ScaleShift) for stage in folded.stages)
    verify_weights(folded, weights)
    same(given, WEIGHTS, folded, weights, X, 1e-5)


def test_fold_into_depthwise_twice() -> None:
    scale = ScaleShift("scale6", "shift6", 6)
    given = program(DW, scale, scale, activations.make("relu"), PW)
    folded, weights = passes.fold_scale_shift(given, WEIGHTS)
    same(given, WEIGHTS, folded, weights, X, 1e-4)


def test_fold_leaves_shared_weights_alone() -> None:
    square = Depthwise("k", (3, 3), (1, 1), (1, 1), 3, 1)
    weights = {**WEIGHTS, "k": WEIGHTS["k"][..., :1], "s": WEIGHTS["scale"][:3], "t": WEIGHTS["shift"][:3]}
    given = program(square, square, ScaleShift("s", "t", 3))
    folded, arrays = passes.fold_scale_shift(given, weights)
    same(given, weights, folded, arrays, X, 1e-5)


def test_fold_needs_a_linear_stage() -> None:
    with pytest.raises(UnsupportedError, match="ScaleShift"):
        passes.fold_scale_shift(program(DW, activations.make("relu"), ScaleShift("scale6", "shift6", 6)), WEIGHTS)


@pytest.mark.parametrize(
    "stages,says",
    [
        ((Pointwise("p", 5, 4),), "channels=5"),
        ((Depthwise("k", (10, 1), (1, 1), (1, 1), 3, 1),), "below 1"),
        ((Depthwise("k", (3, 3), (0, 1), (1, 1), 3, 1),), "strides"),
        ((Pad((-1, 0), (0, 0)),), "negative"),
        ((Transpose((0, 3, 1, 2)), DW), "NHWC"),
        ((Transpose((0, 1, 1, 2)),), "perm"),
        ((replace(activations.make("relu"), params=()),), "parameter"),
        ((replace(activations.make("relu"), kind="rleu"),), "unknown"),
        ((replace(activations.make("softmax", axis=3), axis=0),), "axis"),
        ((replace(activations.make("softmax", axis=3), axis=None),), "axis"),
        ((activations.make("glu", axis=3),), "even"),
        ((Pointwise("p", 3, 2**31),), "elements"),
    ],
)
def test_verify_refuses(stages: tuple[Stage, ...], says: str) -> None:
    spec = TensorSpec((None, 9, 9, 3), "float32")
    with pytest.raises(ConfigError, match=says):
        verify(Program("test", spec, spec, stages))


def test_verify_checks_the_edge() -> None:
    good = program(DW)
    for change in (
        {"output": TensorSpec((None, 1, 1, 1), "float32")},
        {"input": TensorSpec((None, 9, 9, 3), "float64")},
        {"input": TensorSpec((None, 9, 9, 0), "float32")},
        {"input": TensorSpec((2, 9, 9, 3), "float32")},
    ):
        with pytest.raises(ConfigError):
            verify(replace(good, **change))  # type: ignore[arg-type]


def test_verify_weights() -> None:
    good = program(DW)
    verify_weights(good, {"k": WEIGHTS["k"]})
    for bad in ({}, WEIGHTS, {"k": WEIGHTS["k"][:2]}, {"k": WEIGHTS["k"].astype("float64")}):
        with pytest.raises(WeightError):
            verify_weights(good, bad)


def test_text() -> None:
    text = printer.to_text(program(Pad((1, 1), (1, 1)), DW, PW, Bias("c", 4), activations.make("softmax", axis=3)))
    assert text.splitlines()[0] == "program test(float32[N, 9, 9, 3]) -> float32[N, 5, 7, 4] {"
    assert "softmax(axis=3)" in text
    assert ": [N, 5, 7, 6]" in text


def test_inputs_are_checked() -> None:
    for x in (np.zeros((2, 9, 9, 4)), np.zeros((9, 9, 3)), "x", [[1], [2, 3]]):
        with pytest.raises(InputError):
            reference.evaluate(program(DW), WEIGHTS, x)
    with pytest.raises(WeightError, match="'k'"):
        reference.evaluate(program(DW), {}, X)
