"""``error_bound`` holds for float32 arithmetic, and is not so wide that it would hide a wrong kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sepcompile.ir import activations, reference
from sepcompile.ir.activations import KINDS
from sepcompile.ir.stages import Activation, Pointwise, Program, TensorSpec

C = 64
RNG = np.random.default_rng(0)
WEIGHTS = {"p": RNG.normal(size=(C, C)).astype("float32"), "alpha": RNG.normal(size=(1, 1, C)).astype("float32")}
X = RNG.normal(size=(1, 4, 4, C)).astype("float32")


def stage(kind: str) -> Activation:
    entry = KINDS[kind]
    return activations.make(kind, axis=3 if entry.is_rowwise else None, weight="alpha" if entry.weighted else None)


def program(activation: Activation) -> Program:
    width = C // 2 if activation.kind == "glu" else C
    inside, outside = TensorSpec((None, 4, 4, C), "float32"), TensorSpec((None, 4, 4, width), "float32")
    return Program("p", inside, outside, (Pointwise("p", C, C), activation))


@pytest.mark.parametrize("kind", KINDS)
def test_bound_covers_float32(kind: str) -> None:
    """The product is rounded to float32 term by term; the activation is the float64 formula of that."""
    z = np.zeros((1, 4, 4, C), "float32")
    for c in range(C):
        z += X[..., c : c + 1] * WEIGHTS["p"][c]
    activation = stage(kind)
    alpha = WEIGHTS["alpha"].astype("float64")[np.newaxis] if activation.weight else None
    got = activations.apply(activation, z.astype("float64"), alpha).astype("float32")
    want = reference.evaluate(program(activation), WEIGHTS, X)
    bound = reference.error_bound(program(activation), WEIGHTS, X)
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"exponential", "sparsemax"}))
def test_bound_is_tight_enough_to_notice_a_missing_term(kind: str) -> None:
    weights = {**WEIGHTS, "p": WEIGHTS["p"].copy()}
    weights["p"][5] = 0
    activation = stage(kind)
    right = reference.evaluate(program(activation), WEIGHTS, X)
    wrong = reference.evaluate(program(activation), weights, X)
    bound = reference.error_bound(program(activation), WEIGHTS, X)
    finite = np.isfinite(bound)
    assert finite.mean() > 0.95
    assert (np.abs(right - wrong) > bound).mean() > 0.05


def test_jumps_have_no_bound() -> None:
    identity = {"p": np.eye(C, dtype="float32")}
    x = np.full((1, 4, 4, C), 0.5)
    for kind, params in (("hard_shrink", {}), ("threshold", {"threshold": 0.5}), ("relu", {"threshold": 0.5})):
        bound = reference.error_bound(program(activations.make(kind, params)), identity, x)
        assert np.isinf(bound).all()
        far = reference.error_bound(program(activations.make(kind, params)), identity, x * 3)
        assert np.isfinite(far).all()


def test_overflow_of_the_narrow_type_has_no_bound() -> None:
    identity = {"p": np.eye(C, dtype="float32")}
    bound = reference.error_bound(program(stage("exponential")), identity, np.full((1, 4, 4, C), 100.0))
    assert np.isinf(bound).all()


def test_table() -> None:
    assert dict(activations.make("hard_sigmoid").params) == {"offset": 0.5, "scale": 1 / 6}
    assert activations.make("relu").param("max_value") == math.inf
    for kind in KINDS.values():
        assert list(kind.params) == sorted(kind.params)
        assert kind.is_rowwise + kind.weighted + (kind.elementwise is not None) == 1
