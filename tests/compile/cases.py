"""Layers, inputs and schedules for the tests of compiled kernels."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile.codegen.cache import CompileCache
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.variant import compile_variant, read_program
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.errors import ScheduleError
from sepcompile.frontend import ImportedLayer, read_layer
from sepcompile.ir.reference import error_bound, evaluate, roundoffs
from sepcompile.runtime import cpu
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine, Target, list_targets


@cache
def runnable_targets() -> tuple[Target, ...]:
    """The targets whose kernels this machine can execute."""
    here = [t for t in list_targets() if t.arch == cpu.machine() and set(t.requires) <= cpu.features()]
    assert here, "no target runs on this machine"
    return tuple(here)


def read(name: str, config: Mapping[str, Any], shape: tuple[int | None, ...], **options: Any) -> ImportedLayer:
    """The layer with weights drawn."""
    return read_layer({"class_name": name, "config": dict(config)}, input_shape=shape, **options)


def with_integers(layer: ImportedLayer, seed: int = 0) -> ImportedLayer:
    """The layer with small integer weights: every sum is exact in float32, in any order."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.integers(-2, 3, array.shape).astype(np.float32) for name, array in layer.weights.items()}
    return dataclasses.replace(layer, weights=weights)


def image(layer: ImportedLayer, integers: bool, seed: int = 1) -> np.ndarray:
    """One input image with a batch of 1."""
    rng = np.random.default_rng(seed)
    shape = (1, *layer.program.input.shape[1:])
    values = rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    return values.astype(layer.program.input.dtype)


def build(
    layer: ImportedLayer, target: Target, schedule: Schedule | None = None, cache_folder: Path | None = None
) -> Compiled:
    """One compiled variant."""
    kept = CompileCache(cache_folder / "kernels.sqlite3") if cache_folder else None
    return compile_variant(
        layer.program, layer.weights, target, symbol="layer", worker=shared_worker(), cache=kept, schedule=schedule
    )


def expected(layer: ImportedLayer, x: np.ndarray, precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """The float64 output and how far kernels of ``precision`` may be off."""
    eps, products = roundoffs(layer.program, precision)
    bound = error_bound(layer.program, layer.weights, x, eps, products=products)
    return evaluate(layer.program, layer.weights, x), bound


def assert_close(actual: np.ndarray, reference: np.ndarray, bound: np.ndarray) -> None:
    """Within the bound where the reference is finite; the same NaN and infinities where it is not."""
    finite = np.isfinite(reference) & np.isfinite(bound)
    got = actual.astype(np.float64)
    error = np.abs(got - reference)[finite]
    worst = (error - bound[finite]).max(initial=-np.inf)
    assert worst <= 0, f"off by {worst} more than allowed; largest error {error.max()}"
    special = ~np.isfinite(reference)
    np.testing.assert_array_equal(got[special], reference[special])


def form_of(layer: ImportedLayer) -> Form:
    """The form that the layer's kernels are generated from."""
    return read_program(layer.program, layer.weights)[0]


def random_record(form: Form, machine: Machine, rng: random.Random) -> Schedule:
    """Any record that fits: far from what the heuristic would choose."""
    while True:
        record = _draw(form, machine, rng)
        try:
            check_record(record, form, machine)
        except ScheduleError:
            continue
        return record


def _draw(form: Form, machine: Machine, rng: random.Random) -> Schedule:
    def lanes(channels: int) -> int:
        return 2 ** rng.randint(0, max(0, min(machine.float_lanes, channels).bit_length() - 1))

    single_row = form.out_height == 1
    split = form.pointwise is not None and rng.random() < 0.3
    rows = form.out_height if split else rng.randint(1, form.out_height)
    columns = form.out_width if split or not single_row else rng.randint(1, form.out_width)
    wide = lanes(form.out_channels)
    registers = machine.tile_registers
    vectors = rng.randint(1, min(5, -(-form.out_channels // wide)))
    pixels = rng.randint(1, min(rows * columns, max(1, (registers - 1 - vectors) // vectors)))
    blocks = form.pointwise is not None and (rows, columns) != (form.out_height, form.out_width)
    order, tiles = rng.choice(["pixel", "panel"]), -(-rows * columns // pixels)
    return Schedule(
        lanes=wide,
        depthwise_lanes=lanes(form.depthwise_channels),
        rows=rows,
        columns=columns,
        tile_rows=rng.randint(1, min(rows, 3)),
        tile_columns=rng.randint(1, min(columns, 8)),
        tap_unroll=rng.randint(1, form.depthwise.kernel_size[1]),
        unroll_rows=rng.random() < 0.5,
        staged=rng.random() < 0.5,
        depthwise_order=rng.choice(["pixel", "channel"]),
        tile_pixels=pixels,
        tile_vectors=vectors,
        k_unroll=rng.choice([1, 2, 4, 8]),
        order=order,
        split=split,
        prefetch=blocks and rng.random() < 0.5,
        tile_groups=rng.choice([n for n in (1, 2, 3, 5) if tiles % n == 0]) if split and order == "panel" else 1,
    )
