"""From a program and its weights to the object code of one variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.codegen import pipeline
from sepcompile.codegen.plan import Compiled, Plan, Step
from sepcompile.compute.form import Form, read_form
from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.layer import Layer
from sepcompile.compute.packing import pack_weights
from sepcompile.compute.record import Schedule
from sepcompile.compute.relayout import Relayout, relayout_kernel
from sepcompile.compute.rowwise import Rows, rowwise_kernel
from sepcompile.compute.separable import depthwise_kernel, fused_kernel, split_kernels
from sepcompile.ir.passes import canonicalize, fold_scale_shift
from sepcompile.ir.stages import Program
from sepcompile.schedule import choose
from sepcompile.schedule.cpu import schedule_depthwise, schedule_fused, schedule_pointwise
from sepcompile.schedule.limits import check_record
from sepcompile.schedule.rows import schedule_relayout, schedule_rowwise
from sepcompile.targets import Target

Weights = Mapping[str, NDArray[np.float32]]
_ITEM_BYTES = {"float32": 4, "float16": 2}
_EXP_MACS = 8  # what an exponential costs, in multiply-accumulates


def compile_program(
    program: Program, weights: Weights, target: Target, *, symbol: str, schedule: Schedule | None = None, texts: bool = False
) -> Compiled:
    """Compile ``program`` for one target; ``symbol`` starts every kernel's name, ``schedule`` overrides the heuristic.

    ``texts`` asks for the scheduled TIR and the assembly as well, which take as long as the object code.
    Raises ``UnsupportedError`` for a program that no kernel covers and ``ScheduleError`` for a record that does not fit.
    """
    form, folded = read_program(program, weights)
    if schedule is not None:
        check_record(schedule, form, target.machine)
    record = schedule or choose(form, target)
    # A row-wise activation reads the layer's sums, which stay float32 until it has run.
    layer = Layer(replace(form, out_dtype="float32") if form.rowwise else form, record)
    kernels = _kernels(layer, form, target)
    lowered = {
        name: pipeline.lower(kernel.scheduled, name, target.tvm, kernel.ir.views)
        for name, kernel in zip((f"{symbol}_k{i}" for i in range(len(kernels.items))), kernels.items, strict=False)
    }
    module = pipeline.build(lowered, target.tvm)
    steps = tuple(
        Step(name, kernel.ir.operands, kernel.tasks, lowered[name].scratch_bytes, max(1, kernel.macs // kernel.tasks))
        for name, kernel in zip(lowered, kernels.items, strict=True)
    )
    return Compiled(
        target=target.name,
        plan=Plan(steps, tuple(kernels.intermediates), _x_bytes(form), _y_bytes(form)),
        object_code=pipeline.object_code(module),
        weights=pack_weights(layer, folded),
        schedule=record.to_json(),
        schedule_source="given" if schedule is not None else "heuristic",
        tir=pipeline.text(lowered) if texts else "",
        assembly=module.inspect_source("s") if texts else "",
    )


def read_program(program: Program, weights: Weights) -> tuple[Form, dict[str, NDArray[np.float32]]]:
    """The form that kernels are generated from, and the weights with every scale and shift folded in."""
    folded_program, folded = fold_scale_shift(canonicalize(program), weights)
    return read_form(canonicalize(folded_program), {name: array.shape for name, array in folded.items()}), folded


@dataclass(frozen=True)
class _Kernel:
    ir: KernelIR
    scheduled: Any
    tasks: int
    macs: int


@dataclass
class _Kernels:
    """The kernels of a layer in order, with the buffers between them."""

    items: list[_Kernel] = field(default_factory=list)
    intermediates: list[tuple[str, int]] = field(default_factory=list)

    def buffer(self, name: str, nbytes: int) -> str:
        self.intermediates.append((name, nbytes))
        return f"t:{name}"

    def add(self, ir: KernelIR, schedule: Callable[[KernelIR], Any], tasks: int, macs: int) -> None:
        self.items.append(_Kernel(ir, schedule(ir), tasks, macs))


def _kernels(layer: Layer, form: Form, target: Target) -> _Kernels:
    """Transpose in, the layer itself, row-wise activation, transpose out: whichever of them are needed."""
    lanes = target.machine.float_lanes
    kernels = _Kernels()
    source = "x"
    if form.channels_first_in and min(form.channels, form.height * form.width) > 1:
        source = kernels.buffer("input", _x_bytes(form))
        _add_relayout(kernels, Relayout.of(form.channels, form.height * form.width, lanes, form.in_dtype), "x", source)
    height, width, channels = form.final_image
    transposes = form.channels_first_out and min(channels, height * width) > 1
    last = kernels.buffer("output", _y_bytes(form)) if transposes else "y"
    result = kernels.buffer("sums", math.prod(form.image) * 4) if form.rowwise else last
    _add_layer(kernels, layer, source, result)
    if form.rowwise:
        rows = Rows.of(form.rowwise.kind, form.image, form.rowwise.axis or 3, lanes, form.out_dtype)
        macs = rows.elements * (rows.extent if rows.kind == "sparsemax" else _EXP_MACS)
        kernels.add(rowwise_kernel(rows, result, last), lambda k: schedule_rowwise(k, rows), rows.tasks, macs)
    if transposes:
        _add_relayout(kernels, Relayout.of(height * width, channels, lanes, form.out_dtype), last, "y")
    return kernels


def _add_relayout(kernels: _Kernels, shape: Relayout, source: str, target: str) -> None:
    ir = relayout_kernel(shape, source, target)
    kernels.add(ir, lambda k: schedule_relayout(k, shape), shape.tasks, shape.rows * shape.columns)


def _add_layer(kernels: _Kernels, layer: Layer, source: str, result: str) -> None:
    form, record = layer.form, layer.record
    if form.pointwise is None:
        ir = depthwise_kernel(layer, source, result)
        kernels.add(ir, lambda k: schedule_depthwise(k, layer, "O"), layer.blocks, form.macs)
    elif record.split:
        between = kernels.buffer("depthwise", layer.scratch_view.size * 4)
        first, second = split_kernels(layer, source, between, result)
        depthwise_macs = form.out_height * form.out_width * form.depthwise_channels * form.taps
        tasks = layer.panels if record.order == "panel" else layer.pixel_tiles
        kernels.add(first, lambda k: schedule_depthwise(k, layer, "D"), layer.channel_blocks, depthwise_macs)
        kernels.add(second, lambda k: schedule_pointwise(k, layer), tasks, form.macs - depthwise_macs)
    else:
        ir = fused_kernel(layer, source, result)
        kernels.add(ir, lambda k: schedule_fused(k, layer), layer.blocks, form.macs)


def _x_bytes(form: Form) -> int:
    return form.height * form.width * form.channels * _ITEM_BYTES[form.in_dtype]


def _y_bytes(form: Form) -> int:
    return math.prod(form.final_image) * _ITEM_BYTES[form.out_dtype]
