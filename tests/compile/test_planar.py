"""Planar kernels: channels_first layers whose vectors run along pixels, on any record, inside guard pages."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import PlanarSchedule, read_record
from sepcompile.compute.record import Schedule
from sepcompile.errors import ScheduleError
from sepcompile.ir import activations
from sepcompile.ir.passes import canonicalize
from sepcompile.schedule import choose, planar
from sepcompile.schedule.limits import check_record
from sepcompile.schedule.planar_limits import takes
from sepcompile.targets import Machine, Target, get_target
from tests.compile.cases import assert_close, build, expected, form_of, image, read, runnable_targets, with_integers
from tests.compile.guarded import Kernels, in_child
from tests.compile.test_assembly import innermost_loops

Config = dict[str, Any]
Case = tuple[str, Config, tuple[int, ...]]

GRID: list[Case] = [
    ("SeparableConv2D", {"filters": 48, "kernel_size": 3, "padding": "same", "activation": "relu6"}, (20, 9, 33)),
    ("SeparableConv2D", {"filters": 33, "kernel_size": 3, "strides": 2, "padding": "same"}, (17, 15, 14)),
    ("SeparableConv2D", {"filters": 7, "kernel_size": (5, 3), "strides": (2, 1), "padding": "valid"}, (40, 13, 12)),
    ("SeparableConv2D", {"filters": 100, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"}, (24, 11, 13)),
    ("SeparableConv2D", {"filters": 16, "kernel_size": 1, "use_bias": False}, (100, 5, 4)),
    ("SeparableConv2D", {"filters": 10, "kernel_size": 7, "padding": "same", "activation": "silu"}, (3, 4, 3)),
    ("SeparableConv2D", {"filters": 1, "kernel_size": 2, "strides": 3}, (1, 9, 10)),
    ("SeparableConv2D", {"filters": 12, "kernel_size": 3, "strides": 5, "padding": "same"}, (6, 11, 47)),
    ("SeparableConv2D", {"filters": 31, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, (5, 12, 13)),
    ("SeparableConv2D", {"filters": 24, "kernel_size": (1, 9), "strides": 4, "padding": "same"}, (8, 6, 71)),
    ("SeparableConv2D", {"filters": 130, "kernel_size": 3, "padding": "same", "activation": "relu"}, (129, 3, 3)),
    ("SeparableConv1D", {"filters": 40, "kernel_size": 33, "padding": "same", "activation": "relu"}, (32, 77)),
    ("SeparableConv1D", {"filters": 64, "kernel_size": 3, "dilation_rate": 8, "padding": "causal"}, (24, 50)),
    ("SeparableConv1D", {"filters": 5, "kernel_size": 31, "strides": 2, "padding": "same"}, (18, 65)),
    ("SeparableConv1D", {"filters": 20, "kernel_size": 87, "dilation_rate": 2, "padding": "same"}, (16, 40)),
    ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same", "activation": "relu6"}, (64, 15, 14)),
    ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same", "activation": "gelu"}, (40, 15, 33)),
    ("DepthwiseConv2D", {"kernel_size": 7, "padding": "same"}, (9, 10, 11)),
    ("DepthwiseConv2D", {"kernel_size": (8, 1), "use_bias": False}, (3, 30, 1)),
    ("DepthwiseConv1D", {"kernel_size": 15, "dilation_rate": 4, "padding": "same", "activation": "relu"}, (20, 66)),
]
TARGETS = [pytest.param(target, id=target.name) for target in runnable_targets()]
SMALL = ("SeparableConv2D", {"filters": 24, "kernel_size": 3, "padding": "same"}, (32, 28, 28))


def _read(case: Case) -> Any:
    name, config, shape = case
    version = "2" if config.get("padding") == "causal" else "3.15"
    return read(name, {**config, "data_format": "channels_first"}, (None, *shape), keras_version=version)


def _label(case: Case) -> str:
    name, config, shape = case
    words = [f"{key[:1]}{value}" for key, value in config.items() if key not in ("activation", "padding")]
    return f"{name[0]}{name[-2:]}-{'x'.join(map(str, shape))}-{'-'.join(words)}".replace(" ", "")


def _random_record(form: Form, machine: Machine, rng: random.Random) -> PlanarSchedule:
    """Any record that fits."""
    while True:
        split = form.pointwise is not None and rng.random() < 0.4
        rows = form.out_height if split else rng.randint(1, form.out_height)
        vectors = rng.randint(1, 5)
        record = PlanarSchedule(
            lanes=2 ** rng.randint(0, 4),
            depthwise_lanes=2 ** rng.randint(0, 4),
            rows=rows,
            tile_rows=rng.randint(1, min(rows, 4)),
            tile_columns=rng.randint(1, 5),
            tap_unroll=rng.randint(1, form.depthwise.kernel_size[1]),
            unroll_rows=rng.random() < 0.5,
            tile_filters=rng.randint(1, min(form.out_channels, 12)),
            tile_vectors=vectors,
            k_unroll=rng.choice([1, 2, 4]),
            order=rng.choice(["pixel", "panel"]),
            split=split,
        )
        try:
            check_record(record, form, machine)
        except ScheduleError:
            continue
        return record


def _check_exact(compiled: Compiled, x: np.ndarray, reference: np.ndarray, what: object = "") -> None:
    kernels = Kernels(compiled)

    def check() -> None:
        for at_end, shift, by_task in ((True, 0, False), (False, 0, True), (True, 4, False), (False, 20, False)):
            y = kernels.run(x, "float32", at_end, shift, by_task)
            np.testing.assert_array_equal(y.reshape(reference.shape), reference, err_msg=str(what))

    in_child(check)


def _exact(case: Case) -> bool:
    """Whether integers come out as integers: every activation of the case is piecewise linear."""
    return case[1].get("activation") not in ("silu", "gelu")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", [case for case in GRID if _exact(case)], ids=_label)
def test_integers_are_bit_exact_inside_guard_pages(case: Case, target: Target) -> None:
    layer = with_integers(_read(case))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    form = form_of(layer)
    assert takes(form)
    _check_exact(build(layer, target, planar.best(form, target.machine)), x, reference)


@pytest.mark.parametrize("case", [case for case in GRID if _exact(case)], ids=_label)
def test_any_record_that_fits_is_bit_exact(case: Case) -> None:
    target = runnable_targets()[GRID.index(case) % len(runnable_targets())]
    layer = with_integers(_read(case))
    x = image(layer, integers=True)
    reference, _ = expected(layer, x)
    rng = random.Random(_label(case) + target.name)
    record = _random_record(form_of(layer), target.machine, rng)
    _check_exact(build(layer, target, record), x, reference, record)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", [*GRID[::4], *(case for case in GRID if not _exact(case))], ids=_label)
def test_floats_are_within_the_derived_bound(case: Case, target: Target) -> None:
    layer = _read(case)
    x = image(layer, integers=False)
    kernels = Kernels(build(layer, target, planar.best(form_of(layer), target.machine)))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("strides", [1, 2])
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(value: float, strides: int) -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "strides": strides, "activation": "relu"}
    layer = _read(("SeparableConv2D", config, (19, 9, 10)))
    x = image(layer, integers=False)
    x[0, 18, 4, 9] = value
    target = runnable_targets()[-1]
    kernels = Kernels(build(layer, target, planar.best(form_of(layer), target.machine)))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))


def test_float16_edges() -> None:
    config = {"filters": 20, "kernel_size": 3, "padding": "same", "dtype": "float16", "data_format": "channels_first"}
    layer = read("SeparableConv2D", config, (None, 12, 11, 13), keras_version="3.15")
    x = image(layer, integers=False)
    target = runnable_targets()[-1]
    kernels = Kernels(build(layer, target, planar.best(form_of(layer), target.machine)))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float16").reshape(reference.shape), reference, bound))


def test_an_activation_before_the_padding() -> None:
    """The padding stays zero, whatever the activation makes of zero."""
    layer = _read(("SeparableConv2D", {"filters": 9, "kernel_size": 3, "padding": "same"}, (7, 6, 21)))
    program = layer.program
    stages = (activations.make("sigmoid"), *program.stages)
    layer = dataclasses.replace(layer, program=canonicalize(program.with_stages(stages)))
    x = image(layer, integers=False)
    form = form_of(layer)
    assert form.pre is not None
    target = runnable_targets()[-1]
    kernels = Kernels(build(layer, target, planar.best(form, target.machine)))
    reference, bound = expected(layer, x)
    in_child(lambda: assert_close(kernels.run(x, "float32").reshape(reference.shape), reference, bound))


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("split", [False, True])
def test_the_pointwise_loop_keeps_its_accumulators_in_registers(split: bool, target: str) -> None:
    layer, chosen = _read(SMALL), get_target(target)
    form = form_of(layer)
    best = planar.best(form, chosen.machine)
    record = dataclasses.replace(best, rows=form.out_height if split else 4, tile_rows=2, split=split)
    compiled = compile_variant(
        layer.program, layer.weights, chosen, symbol="layer", worker=shared_worker(), schedule=record, texts=True
    )
    designed = record.tile_filters * record.tile_vectors * record.k_unroll
    loops = innermost_loops(compiled.assembly)
    # LLVM may unroll a short loop once or twice more.
    found = [loop for loop in loops if loop.multiply_adds in (designed, 2 * designed, 4 * designed)]
    assert found, f"no loop of {designed} multiply-adds among {loops}"
    assert all(loop.stack == 0 and loop.stores == 0 for loop in found), found


def test_a_layer_without_transposes_is_compiled_planar(tmp_path: Path) -> None:
    name, config, shape = SMALL
    source = {"class_name": name, "config": {**config, "data_format": "channels_first"}}
    artifact = sepcompile.compile(source, (None, *shape), target="x86-64-v3", output=tmp_path / "layer", cache=False)
    schedule = json.loads((artifact.path / "manifest.json").read_text())["variants"][0]["schedule"]
    record = read_record(schedule)
    assert isinstance(record, PlanarSchedule)
    assert record.to_json() == schedule
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    outputs = [sepcompile.load(artifact.path, threads=threads, selftest=True)(x) for threads in (1, 2)]
    assert np.array_equal(*outputs)


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        ("SeparableConv2D", {"filters": 64, "kernel_size": 3, "padding": "same"}, (None, 28, 28, 64)),
        ("SeparableConv2D", {"filters": 64, "kernel_size": 3, "data_format": "channels_first", "depth_multiplier": 2},
         (None, 64, 28, 28)),
        ("SeparableConv2D", {"filters": 64, "kernel_size": 3, "data_format": "channels_first",
                             "activation": "softmax"}, (None, 64, 28, 28)),
    ],
    ids=["channels_last", "depth_multiplier", "rowwise"],
)  # fmt: skip
def test_other_layers_are_transposed(name: str, config: Config, shape: tuple[int | None, ...]) -> None:
    form = form_of(read(name, config, shape, keras_version="3.15"))
    assert not takes(form)
    target = get_target("x86-64-v4")
    assert isinstance(choose(form, target), Schedule)
    with pytest.raises(ScheduleError, match="layout='planar'"):
        check_record(PlanarSchedule(1, 1, 1, 1, 1, 1, False), form, target.machine)


@pytest.mark.parametrize(
    "change",
    [
        {"lanes": 3}, {"lanes": 32}, {"depthwise_lanes": 0}, {"order": "sideways"}, {"rows": True}, {"rows": 29},
        {"speed": 1}, {"layout": "diagonal"}, {"tile_filters": 99}, {"tile_rows": 28, "tile_columns": 2},
        {"split": True, "rows": 4}, {"tap_unroll": 4},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_record_names_the_knob(change: Config) -> None:
    form = form_of(_read(SMALL))
    machine = get_target("x86-64-v4").machine
    known = planar.best(form, machine).to_json()
    with pytest.raises(ScheduleError, match=next(iter(change))):
        check_record(read_record({**known, **change}), form, machine)


def test_a_record_of_either_layout_is_read_back() -> None:
    form = form_of(_read(SMALL))
    target = get_target("x86-64-v4")
    record = planar.best(form, target.machine)
    assert read_record(record.to_json()) == record
    with pytest.raises(ScheduleError, match="layout"):
        PlanarSchedule.from_json({})
    with pytest.raises(ScheduleError, match="rows"):
        PlanarSchedule.from_json({"layout": "planar", "lanes": 8})
