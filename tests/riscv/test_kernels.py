"""The grids of ``tests/compile/test_kernels.py`` on emulated RISC-V CPUs: bit-exact on integers, inside the buffers.

Scalar kernels run in this process by Unicorn, those with vectors by qemu-user where it is installed.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest

from sepcompile.codegen.link import compile_c
from sepcompile.codegen.plan import Compiled
from sepcompile.targets import Target, get_target
from tests.arm.unicorn_run import EmulatedKernels, EmulationError
from tests.compile.cases import (
    assert_close,
    build,
    expected,
    form_of,
    image,
    random_record,
    read,
    with_integers,
)
from tests.compile.test_kernels import GRID, K3, label, options
from tests.riscv.qemu_run import QemuKernels, qemu

Case = tuple[str, dict[str, Any], tuple[int, ...]]
TARGETS = [pytest.param(get_target(name), id=name) for name in ("riscv64", "riscv64-v")]


def kernels(compiled: Compiled, target: Target) -> EmulatedKernels | QemuKernels:
    return QemuKernels(compiled, target) if "v" in target.requires else EmulatedKernels(compiled, target)


@pytest.fixture(autouse=True)
def _emulator(request: pytest.FixtureRequest) -> None:
    target = request.node.callspec.params.get("target") if hasattr(request.node, "callspec") else None
    if target is None or "v" in target.requires:
        qemu()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID, ids=label)
def test_integers_are_bit_exact_and_nothing_else_is_touched(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    compiled = kernels(build(layer, target), target)
    for at_end, shift, by_task in ((True, 0, False), (False, 0, True), (True, 4, False), (False, 20, False)):
        y = compiled.run(x, "float32", at_end, shift, by_task)
        np.testing.assert_array_equal(y.reshape(reference.shape), reference)
    if isinstance(compiled, QemuKernels):
        y = compiled.run(x, "float32", cpu="256")
        np.testing.assert_array_equal(y.reshape(reference.shape), reference)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID[::2], ids=label)
def test_any_schedule_that_fits_is_bit_exact(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    rng = random.Random(label(case) + target.name)
    record = random_record(form_of(layer), target.machine, rng)
    y = kernels(build(layer, target, record), target).run(x, "float32", at_end=rng.random() < 0.5)
    np.testing.assert_array_equal(y.reshape(reference.shape), reference, err_msg=str(record))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID[::5], ids=label)
def test_floats_are_within_the_derived_bound(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = read(name, config, (None, *shape), **options(config))
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    assert_close(kernels(build(layer, target), target).run(x, "float32").reshape(reference.shape), reference, bound)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "softplus", "softmax", "glu", "sparsemax"])
def test_activations_are_within_the_derived_bound(activation: str, target: Target) -> None:
    config = {"filters": 22, "kernel_size": 3, "padding": "same", "activation": activation}
    layer = read("SeparableConv2D", config, (None, 5, 6, 9), **K3)
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    assert_close(kernels(build(layer, target), target).run(x, "float32").reshape(reference.shape), reference, bound)


@pytest.mark.parametrize("target", TARGETS)
def test_half_precision(target: Target) -> None:
    """No instruction converts it here: LLVM calls functions, which the library has to bring."""
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "dtype": "float16"}
    layer = read("SeparableConv2D", config, (None, 6, 5, 18), **K3)
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    assert_close(kernels(build(layer, target), target).run(x, "float16").reshape(reference.shape), reference, bound)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", [np.nan, -np.inf], ids=str)
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(value: float, target: Target) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "activation": "relu"}
    layer = read("SeparableConv2D", config, (None, 9, 10, 19), **K3)
    x = image(layer, integers=False)
    x[0, 4, 5, 18] = value
    reference, bound = expected(layer, x)
    assert_close(kernels(build(layer, target), target).run(x, "float32").reshape(reference.shape), reference, bound)


WITHIN, OUTSIDE = "y[i] = x[i + (begin > 0)];", "y[i] = x[i + 1];"


def _copies(compiled: Compiled, statement: str) -> Compiled:
    """The variant with a kernel that copies floats, one after the other."""
    source = f"""
    void layer_k0(const float *x, const float *w, float *y, unsigned char *scratch, int begin, int end) {{
        (void)w; (void)scratch; (void)end;
        for (int i = 0; i < 60; i++) {statement}
    }}"""
    return dataclasses.replace(compiled, object_code=compile_c(source, triple="riscv64-linux-musl"))


def test_qemu_sees_accesses_outside_and_instructions_that_are_missing() -> None:
    target = get_target("riscv64-v")
    layer = read("DepthwiseConv1D", {"kernel_size": 1, "use_bias": False}, (None, 15, 4), **K3)
    x, compiled = image(layer, integers=True), build(layer, target)
    assert [len(step.operands) for step in compiled.plan.steps] == [3]
    y = QemuKernels(_copies(compiled, WITHIN), target).run(x, "float32")
    np.testing.assert_array_equal(y, x.reshape(-1))
    with pytest.raises(EmulationError, match="status -11"):
        QemuKernels(_copies(compiled, OUTSIDE), target).run(x, "float32")
    with pytest.raises(EmulationError, match="status -4"):
        QemuKernels(compiled, target).run(x, "float32", cpu="none")
