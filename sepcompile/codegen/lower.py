"""From a form and a schedule to object code: which kernels a layer needs, and in which order they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sepcompile.codegen import pipeline
from sepcompile.codegen.plan import CompiledKernels, Plan, Step
from sepcompile.compute.form import Form
from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.layer import Layer
from sepcompile.compute.planar import depthwise_planar_kernel, fused_planar_kernel, split_planar_kernels
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_record import CpuSchedule, PlanarSchedule
from sepcompile.compute.record import Schedule
from sepcompile.compute.relayout import Relayout, relayout_kernel
from sepcompile.compute.rowwise import Rows, rowwise_kernel
from sepcompile.compute.separable import depthwise_kernel, fused_kernel, split_kernels
from sepcompile.schedule import planar_apply
from sepcompile.schedule.cpu import schedule_depthwise, schedule_fused, schedule_pointwise
from sepcompile.schedule.rows import schedule_rowwise
from sepcompile.targets import Target

_ITEM_BYTES = {"float32": 4, "float16": 2}
_EXP_MACS = 8  # what an exponential costs, in multiply-accumulates


def compile_form(
    form: Form, record: CpuSchedule, target: Target, *, symbol: str, texts: bool = False
) -> CompiledKernels:
    """Compile a form under a schedule for one target; ``symbol`` starts every kernel's name.

    ``texts`` asks for the lowered TIR and the assembly as well, which take as long as the object code.
    """
    kernels, memory = _kernels(form, record, target), _memory(target)
    neon = target.family == "arm"
    fuse = neon and "vfpv4" in target.requires
    lowered = {
        name: pipeline.lower(kernel.scheduled, name, target.tvm, kernel.ir.views, memory, neon, kernel.ir.ahead, fuse)
        for name, kernel in ((f"{symbol}_k{i}", kernel) for i, kernel in enumerate(kernels.items))
    }
    module = pipeline.build(lowered, target.tvm)
    steps = tuple(
        Step(name, kernel.ir.operands, kernel.tasks, lowered[name].scratch_bytes, max(1, kernel.macs // kernel.tasks))
        for name, kernel in zip(lowered, kernels.items, strict=True)
    )
    plan = Plan(steps, tuple(kernels.intermediates), _x_bytes(form), _y_bytes(form))
    tir, assembly = (pipeline.text(lowered), module.inspect_source("s")) if texts else ("", "")
    return CompiledKernels(plan, pipeline.object_code(module), tir, assembly)


def _memory(target: Target) -> pipeline.Memory:
    """A microcontroller's stack is small and its RAM is counted: what does not belong in registers is scratch."""
    return pipeline.Memory(stack_bytes=0, alignment=8) if target.bare else pipeline.Memory()


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


def _kernels(form: Form, record: CpuSchedule, target: Target) -> _Kernels:
    if isinstance(record, PlanarSchedule):
        return _planar_kernels(form, record)
    return _transposed_kernels(form, record, target)


def _transposed_kernels(form: Form, record: Schedule, target: Target) -> _Kernels:
    """Transpose in, the layer itself, row-wise activation, transpose out: whichever of them are needed."""
    lanes = target.machine.float_lanes
    # A row-wise activation reads the layer's sums, which stay float32 until it has run.
    layer = Layer(replace(form, out_dtype="float32") if form.rowwise else form, record)
    kernels = _Kernels()
    source = "x"
    height, width, channels = form.final_image
    transposes = form.channels_first_out and not layer.writes_channels_first and min(channels, height * width) > 1
    copied = form.channels_first_in and not layer.reads_channels_first
    if copied and min(form.channels, form.height * form.width) > 1:
        # Until the last step writes the output, its memory is free: less memory to touch, and less to leave the caches.
        source = "y" if transposes and _x_bytes(form) <= _y_bytes(form) else kernels.buffer("input", _x_bytes(form))
        _add_relayout(kernels, Relayout.of(form.channels, form.height * form.width, lanes, form.in_dtype), "x", source)
    last = kernels.buffer("output", _y_bytes(form)) if transposes else "y"
    in_place = target.bare and form.final_image == form.image and form.out_dtype == "float32"
    result = kernels.buffer("sums", math.prod(form.image) * 4) if form.rowwise and not in_place else last
    _add_layer(kernels, layer, source, result)
    if form.rowwise:
        rows = Rows.of(form.rowwise.kind, form.image, form.rowwise.axis or 3, lanes, form.out_dtype)
        macs = rows.elements * (rows.extent if rows.kind == "sparsemax" else _EXP_MACS)
        kernels.add(rowwise_kernel(rows, result, last), lambda k: _rowwise(k, rows, in_place), rows.tasks, macs)
    if transposes:
        _add_relayout(kernels, Relayout.of(height * width, channels, lanes, form.out_dtype), last, "y")
    return kernels


def _rowwise(kernel: KernelIR, rows: Rows, in_place: bool) -> Any:
    """The scheduled kernel. In place, an element is read for the last time before its result is stored."""
    scheduled = schedule_rowwise(kernel, rows)
    return scheduled.with_attr("tirx.noalias", False) if in_place else scheduled


def _add_relayout(kernels: _Kernels, shape: Relayout, source: str, target: str) -> None:
    ir = relayout_kernel(shape, source, target)
    kernels.add(ir, lambda k: k.func, shape.tasks, shape.rows * shape.columns)


def _add_layer(kernels: _Kernels, layer: Layer, source: str, result: str) -> None:
    form, record = layer.form, layer.record
    if form.pointwise is None:
        ir = depthwise_kernel(layer, source, result)
        kernels.add(ir, lambda k: schedule_depthwise(k, layer, "O"), layer.blocks, form.macs)
    elif record.split:
        between = kernels.buffer("depthwise", layer.scratch_view.size * 4)
        first, second = split_kernels(layer, source, between, result)
        depthwise_macs = form.out_height * form.out_width * form.depthwise_channels * form.taps
        tasks = layer.panels * record.tile_groups if record.order == "panel" else layer.pixel_tiles
        kernels.add(first, lambda k: schedule_depthwise(k, layer, "D"), layer.depthwise_tasks, depthwise_macs)
        kernels.add(second, lambda k: schedule_pointwise(k, layer), tasks, form.macs - depthwise_macs)
    else:
        ir = fused_kernel(layer, source, result)
        kernels.add(ir, lambda k: schedule_fused(k, layer), layer.blocks, form.macs)


def _planar_kernels(form: Form, record: PlanarSchedule) -> _Kernels:
    """A channels_first layer as it is, without transposes."""
    layer, kernels = PlanarLayer(form, record), _Kernels()
    depthwise_macs = form.channels * form.out_height * form.out_width * form.taps
    tasks = layer.blocks * form.channels
    if form.pointwise is None:
        ir = depthwise_planar_kernel(layer, "x", "y")
        kernels.add(ir, lambda k: planar_apply.schedule_depthwise(k, layer, "O"), tasks, form.macs)
    elif record.split:
        between = kernels.buffer("depthwise", layer.scratch_view.size * 4)
        first, second = split_planar_kernels(layer, "x", between, "y")
        kernels.add(first, lambda k: planar_apply.schedule_depthwise(k, layer, "D"), tasks, depthwise_macs)
        tiles = layer.panels if record.order == "panel" else layer.pixel_tiles
        kernels.add(second, lambda k: planar_apply.schedule_pointwise(k, layer), tiles, form.macs - depthwise_macs)
    else:
        ir = fused_planar_kernel(layer, "x", "y")
        kernels.add(ir, lambda k: planar_apply.schedule_fused(k, layer), layer.blocks, form.macs)
    return kernels


def _x_bytes(form: Form) -> int:
    return form.height * form.width * form.channels * _ITEM_BYTES[form.in_dtype]


def _y_bytes(form: Form) -> int:
    return math.prod(form.final_image) * _ITEM_BYTES[form.out_dtype]
