"""Compiles one program for one target: form, schedule, kernels (from the cache or the worker), packed weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sepcompile.codegen.cache import CompileCache, source_digest, tool_versions
from sepcompile.codegen.plan import Compiled, CompiledKernels
from sepcompile.codegen.worker import Job, Worker
from sepcompile.compute import cuda_packing
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form, read_form
from sepcompile.compute.layer import Layer
from sepcompile.compute.packing import pack_weights
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_packing import pack_planar_weights
from sepcompile.compute.planar_record import CpuSchedule, PlanarSchedule
from sepcompile.errors import ScheduleError, UnsupportedError
from sepcompile.ir.passes import canonicalize, fold_scale_shift
from sepcompile.ir.stages import Program
from sepcompile.schedule import choose, cuda
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Target

Weights = Mapping[str, NDArray[np.float32]]
PRECISIONS = ("float32", "tf32")
AnySchedule = CpuSchedule | CudaSchedule


def compile_variant(
    program: Program,
    weights: Weights,
    target: Target,
    *,
    symbol: str,
    worker: Worker,
    cache: CompileCache | None = None,
    schedule: AnySchedule | None = None,
    texts: bool = False,
    precision: str = "float32",
) -> Compiled:
    """Compile ``program`` for one target; ``symbol`` starts every kernel's name.

    ``schedule`` overrides the heuristic; ``texts`` asks for TIR and assembly, which are never cached; ``precision``
    "tf32" lets a GPU round what a float32 matrix product multiplies. Raises ``UnsupportedError`` for a program that no
    kernel covers, or that ``target`` cannot compute in, ``ScheduleError`` for a record that does not fit it and
    ``CompileError`` where code generation fails.
    """
    check_precision(program, target, precision)
    form, folded = read_program(program, weights, precision)
    record = _record(form, target, schedule, program.batch)
    kernels = _kernels(Job(form, record, target, symbol, texts), worker, cache)
    return Compiled(
        target=target.name,
        plan=kernels.plan,
        object_code=kernels.object_code,
        weights=_packed(form, record, folded),
        schedule=record.to_json(),
        schedule_source="heuristic" if schedule is None else "given",
        tir=kernels.tir,
        assembly=kernels.assembly,
        launches=kernels.launches,
        images=kernels.images,
        precision=_multiplied(form, record),
    )


def check_precision(program: Program, target: Target, precision: str) -> None:
    """Raises ``UnsupportedError`` where ``target`` cannot compute in ``precision``, or in the program's dtype."""
    if precision not in PRECISIONS:
        raise UnsupportedError(f"precision={precision!r} is not supported; accepted: {', '.join(PRECISIONS)}")
    newest = target.gpu.capability if target.gpu is not None else 0
    dtypes = (program.input.dtype, program.output.dtype)
    if "bfloat16" in dtypes and not newest:
        raise UnsupportedError(
            f"layer {program.name!r}: dtype bfloat16 compiles for CUDA targets; {target.name!r} takes float32, float16"
        )
    if precision != "float32" and newest < cuda.TENSOR_CAPABILITY:
        raise UnsupportedError(
            f"layer {program.name!r}: precision={precision!r} needs a CUDA target from cuda-sm_80 on; {target.name!r} "
            "takes 'float32'"
        )
    if precision != "float32" and dtypes[0] != "float32":
        raise UnsupportedError(
            f"layer {program.name!r}: precision={precision!r} is for float32 layers; this one is {dtypes[0]}"
        )


def _record(form: Form, target: Target, given: AnySchedule | None, batch: int | None) -> AnySchedule:
    """The given record, checked, or the heuristic's; one for a GPU depends on the batch as well."""
    if target.gpu is not None:
        if isinstance(given, CpuSchedule):
            raise ScheduleError(f"schedule: a record for CPUs was given for target {target.name!r}")
        if given is not None:
            cuda.check_record(given, form)
        return given or cuda.choose(form, target.gpu, batch)
    if isinstance(given, CudaSchedule):
        raise ScheduleError(f"schedule: a record for GPUs was given for target {target.name!r}")
    if given is not None:
        check_record(given, form, target.machine)
    return given or choose(form, target)


def _multiplied(form: Form, record: AnySchedule) -> str:
    """The type that a GPU's matrix product multiplies; of a depthwise layer and on CPUs always float32."""
    if not isinstance(record, CudaSchedule) or not record.tensor:
        return "float32"
    return form.precision if form.in_dtype == "float32" else form.in_dtype


def _packed(form: Form, record: AnySchedule, weights: Weights) -> dict[str, NDArray[np.float32]]:
    if isinstance(record, CudaSchedule):
        return cuda_packing.pack_weights(form, record, weights)
    if isinstance(record, PlanarSchedule):
        return pack_planar_weights(PlanarLayer(form, record), weights)
    return pack_weights(Layer(form, record), weights)


def read_program(
    program: Program, weights: Weights, precision: str = "float32"
) -> tuple[Form, dict[str, NDArray[np.float32]]]:
    """The form that kernels are generated from, and the weights with every scale and shift folded in.

    ``precision``: of a matrix product, where there is one.
    """
    canonical, folded = fold_scale_shift(canonicalize(program), weights)
    form = read_form(canonicalize(canonical), {name: array.shape for name, array in folded.items()})
    return (form if form.pointwise is None else replace(form, precision=precision)), folded


def _kernels(job: Job, worker: Worker, cache: CompileCache | None) -> CompiledKernels:
    key = _key(job)
    found = cache.get(key) if cache is not None and not job.texts else None
    if found is None:
        found = worker.compile(job)
        if cache is not None:
            cache.put(key, found)
    return found


def _key(job: Job) -> str:
    """Everything that decides the kernels, as text: a stage's origin is not part of its repr."""
    target = {
        "name": job.target.name, "tvm": dict(job.target.tvm), "lanes": job.target.machine.float_lanes,
        "images": job.target.images,
    }  # fmt: skip
    parts = {
        "form": repr(job.form),
        "schedule": job.record.to_json(),
        "symbol": job.symbol,
        "target": target,
        "tools": tool_versions(),
        "source": source_digest(),
    }
    return json.dumps(parts, sort_keys=True)

