"""Generated CUDA C on an emulated GPU, through the real loader: bit-exact on integers, and no barrier to spare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.errors import DeviceError
from sepcompile.ir.reference import EPS_FLOAT32, error_bound
from sepcompile.ir.rounding import round_to
from sepcompile.schedule import cuda
from tests.compile.cases import assert_close, expected, form_of, with_integers
from tests.cuda.cases import compiled, cuda_form, cuda_source, emulated_layer, imported, integers
from tests.cuda.emulator import barriers

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
# What the other types share with float16 is not built again for each of them.
NARROW = [GRID[i] for i in (0, 1, 3, 5, 7, 8, 9, 10, 11, 16)]
CASES = [
    *((case, dtype, "float32") for dtype in DTYPES for case in GRID),
    *((case, "bfloat16", "float32") for case in NARROW),
    *((case, "float32", "tf32") for case in NARROW if "Separable" in case[0]),
]
ORDERS = range(6)


def _label(case: Case) -> str:
    name, config, shape = case
    words = [f"{key[:1]}{value}" for key, value in config.items() if key not in ("activation", "padding")]
    return f"{name[0]}{name[-2:]}-{'x'.join(map(str, shape))}-{'-'.join(words)}".replace(" ", "")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("case", "dtype", "precision"), CASES, ids=[f"{_label(c)}-{d if p == 'float32' else p}" for c, d, p in CASES]
)
def test_integers_are_bit_exact(case: Case, dtype: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of integers are exact in every type, so a result is the reference, rounded once to the output's type."""
    name, config, shape = case
    layer = with_integers(imported(name, {**config, "dtype": dtype}, shape))
    records = cuda.candidates(cuda_form(layer, precision))
    assert records
    # The first fused one and a split one, both with their next tiles under way where they use tensor cores.
    for record in dict.fromkeys([records[0], *[r for r in records if r.split][-2:-1]]):
        built = emulated_layer(layer, compiled(layer, record, precision), precision=precision)
        for batch, order in ((1, 0), (3, 4)):
            monkeypatch.setenv("SEP_ORDER", str(order))
            x = integers(layer, batch)
            reference, _ = expected(layer, x)
            found = built(x).astype(np.float32)
            np.testing.assert_array_equal(found, round_to(reference, dtype), err_msg=str(record))


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "float32"), ("float32", "tf32")])
def test_rounded_operands_are_within_the_derived_bound(dtype: str, precision: str) -> None:
    config = {"filters": 40, "kernel_size": 3, "padding": "same", "activation": "gelu", "dtype": dtype}
    layer = imported("SeparableConv2D", config, (9, 8, 48))
    x = round_to(np.random.default_rng(7).standard_normal((2, 9, 8, 48)), dtype)
    reference, bound = expected(layer, x, precision)
    found = emulated_layer(layer, compiled(layer, None, precision), precision=precision)(x)
    assert_close(found, reference, bound)
    # It really is the narrow type: float32's own bound is far smaller, and is passed.
    assert (np.abs(found - reference) > error_bound(layer.program, layer.weights, x, EPS_FLOAT32)).any()
    assert (bound < 0.1 * (np.abs(reference) + 1.0)).all()


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "float32"), ("float32", "tf32")])
def test_turing_multiplies_by_exchanging_operands(dtype: str, precision: str) -> None:
    """An artifact for all GPUs multiplies on tensor cores; where they do not know a type, lanes do."""
    config = {"filters": 24, "kernel_size": 3, "padding": "same", "dtype": dtype}
    layer = with_integers(imported("SeparableConv2D", config, (6, 7, 40)))
    record = next(r for r in cuda.candidates(cuda_form(layer, precision)) if r.tensor)
    x = integers(layer, 2)
    found = emulated_layer(layer, compiled(layer, record, precision), precision=precision, software=True)(x)
    np.testing.assert_array_equal(found, round_to(expected(layer, x)[0], dtype))


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


# dtype, precision, two kernels, stages, channels: with 96 there are several tiles of them, with 20 just one.
BARRIERS = [
    ("float32", "float32", False, 1, 96), ("float32", "float32", True, 1, 96), ("float32", "float32", False, 1, 20),
    ("float16", "float32", False, 1, 96), ("float16", "float32", True, 1, 96), ("float16", "float32", False, 1, 20),
    ("float16", "float32", False, 2, 96), ("float16", "float32", True, 2, 96),
    ("bfloat16", "float32", True, 2, 96), ("float32", "tf32", False, 2, 96), ("float32", "tf32", True, 2, 96),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "precision", "split", "stages", "channels"), BARRIERS)
def test_no_barrier_can_be_left_out(
    dtype: str, precision: str, split: bool, stages: int, channels: int, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any one of its barriers a kernel's result is wrong in some order of its threads and their copies."""
    config = {"filters": 40, "kernel_size": 3, "padding": "same", "dtype": dtype}
    layer = with_integers(imported("SeparableConv2D", config, (7, 9, channels)))
    records = cuda.candidates(cuda_form(layer, precision))
    built = compiled(layer, next(r for r in records if r.split == split and r.stages == stages), precision)
    emulated, x = emulated_layer(layer, built, precision=precision), integers(layer, 2)
    right = round_to(expected(layer, x)[0], dtype)

    def is_right(order: int, skip: int = -1) -> bool:
        monkeypatch.setenv("SEP_ORDER", str(order))
        monkeypatch.setenv("SEP_SKIP", str(skip))
        try:
            return np.array_equal(emulated(x).astype(np.float32), right)
        except DeviceError:  # threads that wait for others for ever
            return False

    assert all(is_right(order) for order in ORDERS)
    count = barriers(cuda_source(layer, built, precision))
    assert count >= 1
    spare = [number for number in range(count) if all(is_right(order, number) for order in ORDERS)]
    assert not spare, f"of {count} barriers these can be left out: {spare}"


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
