"""Every grid of ``tests/compile/test_kernels.py`` on emulated Arm cores: bit-exact on integers, inside the buffers."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest

from sepcompile.codegen.data import render
from sepcompile.codegen.link import compile_c, link_objects
from sepcompile.errors import ScheduleError
from sepcompile.schedule import choose
from sepcompile.targets import Target, get_target, list_targets
from tests.arm.unicorn_run import EmulatedKernels, EmulationError, Emulator
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

Case = tuple[str, dict[str, Any], tuple[int, ...]]


def named(*names: str) -> list[object]:
    """Targets as parameters."""
    return [pytest.param(get_target(name), id=name) for name in names]


# One target of each instruction set on the whole grid, its siblings, which differ in the machine model, on a part.
WHOLE = ("cortex-a72", "cortex-a76", "armv7-neon", "cortex-a7")
TARGETS = [target for target in list_targets() if target.arch in ("aarch64", "armv7")]
CHOSEN = [
    pytest.param(case, target, id=f"{target.name}-{label(case)}")
    for target in TARGETS
    for case in (GRID if target.name in WHOLE else GRID[::4])
]
ANY = [
    pytest.param(case, get_target(name), id=f"{name}-{label(case)}")
    for name in ("aarch64", "cortex-a7")
    for case in GRID
]


@pytest.mark.parametrize(("case", "target"), CHOSEN)
def test_integers_are_bit_exact_and_nothing_else_is_touched(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    kernels = EmulatedKernels(build(layer, target), target)
    for at_end, shift, by_task in ((True, 0, False), (False, 0, True), (True, 4, False), (False, 20, False)):
        y = kernels.run(x, "float32", at_end, shift, by_task)
        np.testing.assert_array_equal(y.reshape(reference.shape), reference)


@pytest.mark.parametrize(("case", "target"), ANY)
def test_any_schedule_that_fits_is_bit_exact(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    rng = random.Random(label(case) + target.name)
    for _ in range(2):
        record = random_record(form_of(layer), target.machine, rng)
        y = EmulatedKernels(build(layer, target, record), target).run(x, "float32", at_end=rng.random() < 0.5)
        np.testing.assert_array_equal(y.reshape(reference.shape), reference, err_msg=str(record))


@pytest.mark.parametrize("target", named("cortex-a72", "armv7-neon"))
@pytest.mark.parametrize("groups", [2, 4, 16])
def test_groups_of_tiles_are_bit_exact(groups: int, target: Target) -> None:
    layer = with_integers(read("SeparableConv2D", {"filters": 36, "kernel_size": 3}, (None, 9, 11, 12), **K3))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    plain = choose(form_of(layer), target)
    record = dataclasses.replace(
        plain, rows=7, split=True, order="panel", tile_pixels=4, tile_vectors=2, tile_groups=groups
    )
    with pytest.raises(ScheduleError, match="tile_groups=5 needs"):
        build(layer, target, dataclasses.replace(record, tile_groups=5))
    kernels = EmulatedKernels(build(layer, target, record), target)
    assert kernels.plan.steps[-1].tasks == groups * 5
    for by_task in (False, True):
        y = kernels.run(x, "float32", by_task=by_task)
        np.testing.assert_array_equal(y.reshape(reference.shape), reference)


@pytest.mark.parametrize("target", named("cortex-a76", "cortex-a7"))
@pytest.mark.parametrize("case", GRID[::3], ids=label)
def test_floats_are_within_the_derived_bound(case: Case, target: Target) -> None:
    name, config, shape = case
    layer = read(name, config, (None, *shape), **options(config))
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    y = EmulatedKernels(build(layer, target), target).run(x, "float32")
    assert_close(y.reshape(reference.shape), reference, bound)


ACTIVATIONS = ["elu", "gelu", "silu", "tanh", "softplus", "hard_silu", "softmax", "log_softmax", "glu", "sparsemax"]


@pytest.mark.parametrize("target", named("cortex-a72", "armv7-neon"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_within_the_derived_bound(activation: str, target: Target) -> None:
    config = {"filters": 22, "kernel_size": 3, "padding": "same", "activation": activation}
    layer = read("SeparableConv2D", config, (None, 5, 6, 9), **K3)
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    y = EmulatedKernels(build(layer, target), target).run(x, "float32")
    assert_close(y.reshape(reference.shape), reference, bound)


@pytest.mark.parametrize("target", named("cortex-a72", "cortex-a76", "armv7-neon"))
def test_half_precision_edges(target: Target) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "dtype": "float16"}
    layer = read("SeparableConv2D", config, (None, 6, 5, 18), **K3)
    x = image(layer, integers=False)
    reference, bound = expected(layer, x)
    y = EmulatedKernels(build(layer, target), target).run(x, "float16")
    assert_close(y.reshape(reference.shape), reference, bound)


@pytest.mark.parametrize("target", named("cortex-a76", "cortex-a7"))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(value: float, target: Target) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "activation": "relu"}
    layer = read("SeparableConv2D", config, (None, 9, 10, 19), **K3)
    x = image(layer, integers=False)
    x[0, 4, 5, 18] = value
    reference, bound = expected(layer, x)
    y = EmulatedKernels(build(layer, target), target).run(x, "float32")
    assert_close(y.reshape(reference.shape), reference, bound)


TRIPLES = {"armv8.0": "aarch64-linux-musl", "armv7": "arm-linux-musleabihf"}
PROBE = """
int sum(const int *x, int n) { int s = 0; for (int i = 0; i < n; i++) s += x[i]; return s; }
int ninth(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j) { return i * 10 + j; }
"""


@pytest.mark.parametrize("core", TRIPLES)
def test_the_emulator_passes_arguments_and_sees_accesses_outside(core: str) -> None:
    flags = ("-Dsum=probe_sum", "-Dninth=probe_ninth", "-fvisibility=default")
    code = compile_c(PROBE, triple=TRIPLES[core], flags=flags)
    emulator = Emulator(core, link_objects([code], exports=("probe_sum", "probe_ninth"), soname="probe.so"))
    for at_end, shift in ((True, 0), (False, 0), (True, 4)):
        memory = emulator.guarded(40, at_end, shift).write(np.arange(10, dtype=np.int32))
        assert emulator.call("probe_sum", memory.address, 10) == 45
    memory = emulator.guarded(40).write(np.arange(10, dtype=np.int32))
    with pytest.raises(EmulationError, match="outside every buffer"):
        emulator.call("probe_sum", memory.address, 11)
    with pytest.raises(EmulationError, match="outside every buffer"):
        emulator.call("probe_sum", emulator.guarded(40, at_end=False).address - 4, 2)
    assert emulator.call("probe_ninth", *range(8), 4, 2) == 42


HALVES = """
void to_half(const float *x, unsigned short *y, int n) { for (int i = 0; i < n; i++) y[i] = __gnu_f2h_ieee(x[i]); }
void to_float(const unsigned short *x, float *y, int n) { for (int i = 0; i < n; i++) y[i] = __gnu_h2f_ieee(x[i]); }
"""


def test_half_precision_conversions_of_cpus_without_them() -> None:
    code = compile_c(render("memory.c.j2") + HALVES, triple=TRIPLES["armv7"], flags=("-fvisibility=default",))
    emulator = Emulator("armv7", link_objects([code], exports=("to_half", "to_float"), soname="halves.so"))
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    floats = halves.astype(np.float32)
    x, y = emulator.guarded(2**17).write(halves), emulator.guarded(2**18)
    emulator.call("to_float", x.address, y.address, 2**16)
    np.testing.assert_array_equal(y.read("float32"), floats)
    near = floats[np.isfinite(floats)]
    ties = (near + np.nextafter(near.astype(np.float16), np.float16(np.inf)).astype(np.float32)) / 2
    wild = np.random.default_rng(0).integers(0, 2**32, 2**15, dtype=np.uint32).view(np.float32)
    values = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), ties, wild]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected_halves = values.astype(np.float16)
    x, y = emulator.guarded(values.nbytes).write(values), emulator.guarded(values.size * 2)
    emulator.call("to_half", x.address, y.address, values.size)
    np.testing.assert_array_equal(y.read("float16"), expected_halves)
