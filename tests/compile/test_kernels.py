"""Compiled kernels against the float64 reference: bit-exact on integers, inside guard pages, for every target."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sepcompile.targets import Target
from tests.compile.cases import (
    assert_close,
    build,
    expected,
    form_of,
    image,
    random_record,
    read,
    runnable_targets,
    with_integers,
)
from tests.compile.guarded import Kernels, in_child

Config = dict[str, Any]
K3 = {"keras_version": "3.15"}

SEPARABLE_2D: list[tuple[Config, tuple[int, int, int]]] = [
    ({"filters": 64, "kernel_size": 3, "padding": "same", "activation": "relu6"}, (14, 15, 32)),
    ({"filters": 33, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"}, (15, 14, 17)),
    ({"filters": 7, "kernel_size": (5, 3), "strides": (2, 1), "padding": "valid"}, (13, 12, 40)),
    ({"filters": 100, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"}, (11, 13, 24)),
    ({"filters": 16, "kernel_size": 1, "use_bias": False}, (5, 4, 100)),
    ({"filters": 24, "kernel_size": (1, 9), "padding": "same", "depth_multiplier": 2}, (6, 20, 8)),
    ({"filters": 10, "kernel_size": 7, "padding": "same"}, (4, 3, 3)),
    ({"filters": 1, "kernel_size": 2, "strides": 3}, (9, 10, 1)),
    ({"filters": 48, "kernel_size": 3, "padding": "same", "data_format": "channels_first"}, (20, 9, 11)),
    ({"filters": 31, "kernel_size": 3, "strides": 2, "dilation_rate": 2, "padding": "same"}, (12, 13, 5)),
    ({"filters": 12, "kernel_size": 4, "depth_multiplier": 3, "padding": "same"}, (6, 7, 6)),
    ({"filters": 130, "kernel_size": 3, "padding": "same", "activation": "relu"}, (3, 3, 129)),
]
SEPARABLE_1D: list[tuple[Config, tuple[int, int]]] = [
    ({"filters": 40, "kernel_size": 33, "padding": "same", "activation": "relu"}, (77, 32)),
    ({"filters": 64, "kernel_size": 3, "dilation_rate": 8, "padding": "causal", "activation": "relu"}, (50, 24)),
    ({"filters": 5, "kernel_size": 31, "strides": 2, "padding": "same"}, (65, 18)),
    ({"filters": 20, "kernel_size": 87, "dilation_rate": 2, "padding": "same"}, (40, 16)),
    ({"filters": 9, "kernel_size": 13, "padding": "valid", "depth_multiplier": 2}, (128, 10)),
    ({"filters": 6, "kernel_size": 5, "padding": "causal", "data_format": "channels_first"}, (7, 21)),
]
DEPTHWISE_2D: list[tuple[Config, tuple[int, int, int]]] = [
    ({"kernel_size": 3, "padding": "same", "activation": "relu6"}, (15, 14, 128)),
    ({"kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu6"}, (15, 14, 40)),
    ({"kernel_size": 7, "padding": "same"}, (10, 11, 33)),
    ({"kernel_size": (5, 1), "depth_multiplier": 4, "padding": "valid"}, (11, 6, 6)),
    ({"kernel_size": 3, "dilation_rate": 3, "data_format": "channels_first"}, (6, 12, 13)),
    ({"kernel_size": (8, 1), "depth_multiplier": 2, "use_bias": False}, (8, 30, 1)),
]
DEPTHWISE_1D: list[tuple[Config, tuple[int, int]]] = [
    ({"kernel_size": 31, "padding": "same"}, (90, 48)),
    ({"kernel_size": 4, "strides": 3, "padding": "valid", "depth_multiplier": 3}, (29, 7)),
    ({"kernel_size": 15, "dilation_rate": 4, "padding": "same", "activation": "relu"}, (66, 20)),
]
GRID = [
    (name, config, shape)
    for name, rows in (
        ("SeparableConv2D", SEPARABLE_2D),
        ("SeparableConv1D", SEPARABLE_1D),
        ("DepthwiseConv2D", DEPTHWISE_2D),
        ("DepthwiseConv1D", DEPTHWISE_1D),
    )
    for config, shape in rows
]
TARGETS = [pytest.param(target, id=target.name) for target in runnable_targets()]


def options(config: Config) -> dict[str, str]:
    return {"keras_version": "2"} if config.get("padding") == "causal" else K3


def label(case: tuple[str, Config, tuple[int, ...]]) -> str:
    name, config, shape = case
    words = [f"{key[:1]}{value}" for key, value in config.items() if key not in ("activation", "padding")]
    return f"{name[0]}{name[-2:]}-{'x'.join(map(str, shape))}-{'-'.join(words)}".replace(" ", "")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID, ids=label)
def test_integers_are_bit_exact_inside_guard_pages(case: tuple[str, Config, tuple[int, ...]], target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    kernels = Kernels(build(layer, target))

    def check() -> None:
        for at_end, shift, by_task in ((True, 0, False), (False, 0, True), (True, 4, False), (False, 20, False)):
            y = kernels.run(x, "float32", at_end, shift, by_task)
            np.testing.assert_array_equal(y.reshape(reference.shape), reference)

    in_child(check)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID, ids=label)
def test_any_schedule_that_fits_is_bit_exact(case: tuple[str, Config, tuple[int, ...]], target: Target) -> None:
    name, config, shape = case
    layer = with_integers(read(name, config, (None, *shape), **options(config)))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    rng = random.Random(label(case) + target.name)
    for _ in range(2):
        record = random_record(form_of(layer), target.machine, rng)
        kernels = Kernels(build(layer, target, record))

        def check(kernels: Kernels = kernels, record: object = record) -> None:
            y = kernels.run(x, "float32", at_end=rng.random() < 0.5)
            np.testing.assert_array_equal(y.reshape(reference.shape), reference, err_msg=str(record))

        in_child(check)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", GRID[::3], ids=label)
def test_floats_are_within_the_derived_bound(case: tuple[str, Config, tuple[int, ...]], target: Target) -> None:
    name, config, shape = case
    layer = read(name, config, (None, *shape), **options(config))
    x = image(layer, integers=False)
    kernels = Kernels(build(layer, target))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(value: float, padding: str) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": padding, "activation": "relu"}
    layer = read("SeparableConv2D", config, (None, 9, 10, 19), **K3)
    x = image(layer, integers=False)
    x[0, 4, 5, 18] = value
    kernels = Kernels(build(layer, runnable_targets()[-1]))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))


def test_inputs_next_to_the_weights_that_repeat_stay_finite() -> None:
    """Overlapping tiles compute with repeated weights, never with zeros: zero times infinity would be NaN."""
    layer = read("DepthwiseConv1D", {"kernel_size": 31, "padding": "same"}, (None, 40, 5), **K3)
    x = image(layer, integers=False)
    x[0, 20, :] = np.inf
    kernels = Kernels(build(layer, runnable_targets()[-1]))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))
