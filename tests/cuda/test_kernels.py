"""Generated CUDA C on an emulated GPU, through the real loader: bit-exact on integers, and no barrier to spare."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.errors import DeviceError
from sepcompile.schedule import cuda
from tests.compile.cases import assert_close, expected, form_of, with_integers
from tests.cuda.cases import compiled, emulated_layer, imported, integers

Config = dict[str, Any]
Case = tuple[str, Config, tuple[int, ...]]

GRID: list[Case] = [
    ("SeparableConv2D", {"filters": 40, "kernel_size": 3, "padding": "same", "activation": "relu6"}, (9, 10, 32)),
    ("SeparableConv2D", {"filters": 33, "kernel_size": 3, "strides": 2, "padding": "same"}, (11, 10, 17)),
    ("SeparableConv2D", {"filters": 7, "kernel_size": (5, 3), "strides": (2, 1), "padding": "valid"}, (13, 12, 40)),
    ("SeparableConv2D", {"filters": 70, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"}, (7, 9, 24)),
    ("SeparableConv2D", {"filters": 16, "kernel_size": 1, "use_bias": False}, (5, 4, 100)),
    ("SeparableConv2D", {"filters": 12, "kernel_size": (1, 9), "padding": "same", "depth_multiplier": 2}, (3, 20, 8)),
    ("SeparableConv2D", {"filters": 1, "kernel_size": 2, "strides": 3}, (9, 10, 1)),
    ("SeparableConv2D", {"filters": 18, "kernel_size": 3, "data_format": "channels_first"}, (20, 9, 7)),
    ("SeparableConv1D", {"filters": 20, "kernel_size": 33, "padding": "same", "activation": "relu"}, (37, 16)),
    ("SeparableConv1D", {"filters": 24, "kernel_size": 3, "dilation_rate": 8, "padding": "causal"}, (30, 12)),
    ("SeparableConv1D", {"filters": 5, "kernel_size": 31, "strides": 2, "padding": "same"}, (45, 6)),
    ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same", "activation": "relu6"}, (15, 14, 40)),
    ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}, (15, 14, 33)),
    ("DepthwiseConv2D", {"kernel_size": (5, 1), "depth_multiplier": 4, "padding": "valid"}, (11, 6, 6)),
    ("DepthwiseConv2D", {"kernel_size": 3, "dilation_rate": 3, "data_format": "channels_first"}, (6, 12, 13)),
    ("DepthwiseConv1D", {"kernel_size": 31, "padding": "same"}, (50, 24)),
    ("DepthwiseConv1D", {"kernel_size": 4, "strides": 3, "padding": "valid", "depth_multiplier": 3}, (29, 7)),
]  # fmt: skip
DTYPES = ("float32", "float16")


def _label(case: Case) -> str:
    name, config, shape = case
    words = [f"{key[:1]}{value}" for key, value in config.items() if key not in ("activation", "padding")]
    return f"{name[0]}{name[-2:]}-{'x'.join(map(str, shape))}-{'-'.join(words)}".replace(" ", "")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", GRID, ids=_label)
def test_integers_are_bit_exact(case: Case, dtype: str) -> None:
    name, config, shape = case
    layer = with_integers(imported(name, {**config, "dtype": dtype}, shape))
    records = cuda.candidates(form_of(layer))
    assert records
    # The first fused one and the last, which for separable layers is split.
    for record in {records[0], records[-1]}:
        built = emulated_layer(layer, compiled(layer, record))
        for batch in (1, 3):
            x = integers(layer, batch)
            reference, _ = expected(layer, x)
            small = np.abs(reference) < 2048  # float16 holds integers exactly up to here
            found = built(x).astype(np.float64)
            if dtype == "float32" or small.all():
                np.testing.assert_array_equal(found, reference, err_msg=str(record))
            else:
                np.testing.assert_allclose(found, reference, rtol=2e-3, atol=2.0, err_msg=str(record))


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("dtype", DTYPES)
def test_filters_beyond_the_last_are_not_written(dtype: str) -> None:
    """As many filters as channels, and tiles that are wider: every candidate leaves the next pixel alone."""
    config = {"filters": 64, "kernel_size": 3, "padding": "same", "dtype": dtype}
    layer = with_integers(imported("SeparableConv2D", config, (5, 4, 64)))
    x = integers(layer, 1)
    reference, _ = expected(layer, x)
    for record in cuda.candidates(form_of(layer)):
        if record.tile_filters > 64:
            found = emulated_layer(layer, compiled(layer, record))(x)
            np.testing.assert_allclose(found.astype(np.float64), reference, rtol=1e-3, atol=1.0, err_msg=str(record))


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "sparsemax", "glu", "gelu", "mish", "tanh"])
@pytest.mark.parametrize("order", ["channels_last", "channels_first"])
def test_activations_are_within_the_derived_bound(function: str, order: str) -> None:
    config = {"filters": 10, "kernel_size": 3, "activation": function, "data_format": order}
    layer = imported("SeparableConv2D", config, (9, 8, 6))
    x = np.random.default_rng(5).standard_normal((2, 9, 8, 6)).astype(np.float32)
    reference, bound = expected(layer, x)
    assert_close(emulated_layer(layer, compiled(layer))(x), reference, bound)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(value: float, dtype: str) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "activation": "relu", "dtype": dtype}
    layer = imported("SeparableConv2D", config, (9, 10, 19))
    x = np.random.default_rng(6).standard_normal((1, 9, 10, 19)).astype(dtype)
    x[0, 4, 5, 18] = value
    reference, bound = expected(layer, x)
    assert_close(emulated_layer(layer, compiled(layer))(x), reference, bound)


BARRIERS = [
    ("float32", {"filters": 40, "kernel_size": 3, "padding": "same"}, False),
    ("float32", {"filters": 40, "kernel_size": 3, "padding": "same"}, True),
    ("float16", {"filters": 40, "kernel_size": 3, "padding": "same"}, False),
    ("float16", {"filters": 40, "kernel_size": 3, "padding": "same"}, True),
]


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("dtype", "config", "split"), BARRIERS)
def test_missing_barriers_are_seen(dtype: str, config: Config, split: bool) -> None:
    """Removing a barrier that a kernel needs changes its result here; TVM also places some that it does not need."""
    layer = with_integers(imported("SeparableConv2D", {**config, "dtype": dtype}, (7, 9, 96)))
    record = next(r for r in cuda.candidates(form_of(layer)) if r.split == split)
    built = compiled(layer, record)
    x = integers(layer, 2)
    whole = emulated_layer(layer, built)(x)
    count = _count(layer, built)
    assert count >= 2
    needed = [not np.array_equal(emulated_layer(layer, built, _without(i))(x), whole) for i in range(count)]
    assert sum(needed) >= 2, needed


def _count(layer: Any, built: Any) -> int:
    sources: list[str] = []
    emulated_layer(layer, built, lambda source: sources.append(source) or source)  # type: ignore[func-returns-value]
    return len(re.findall(r"__syncthreads\(\);", sources[0]))


def _without(index: int) -> Any:
    def edit(source: str) -> str:
        parts = source.split("__syncthreads();")
        return "__syncthreads();".join(parts[: index + 1]) + "/* none */" + "__syncthreads();".join(parts[index + 1 :])

    return edit


def test_threads_that_miss_a_barrier_are_an_error(driver: Any) -> None:
    layer = imported("SeparableConv2D", {"filters": 8, "kernel_size": 3}, (6, 6, 16))
    broken = emulated_layer(
        layer,
        compiled(layer),
        lambda source: source.replace("__syncthreads();", "if (threadIdx.x) __syncthreads();", 1),
    )
    with pytest.raises(DeviceError, match="CUDA_ERROR_LAUNCH_FAILED"):
        broken(integers(layer, 1))


def test_record_survives_json() -> None:
    record = CudaSchedule(8, 8, 16, 8, 4, 4, 3, 64, 64)
    assert CudaSchedule.from_json(record.to_json()) == record
