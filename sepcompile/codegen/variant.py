"""Compiles one program for one target: form, schedule, kernels (from the cache or the worker), packed weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sepcompile.codegen.cache import CompileCache, source_digest, tool_versions
from sepcompile.codegen.plan import Compiled, CompiledKernels
from sepcompile.codegen.worker import Job, Worker
from sepcompile.compute.form import Form, read_form
from sepcompile.compute.layer import Layer
from sepcompile.compute.packing import pack_weights
from sepcompile.compute.record import Schedule
from sepcompile.ir.passes import canonicalize, fold_scale_shift
from sepcompile.ir.stages import Program
from sepcompile.schedule import choose
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Target

Weights = Mapping[str, NDArray[np.float32]]


def compile_variant(
    program: Program,
    weights: Weights,
    target: Target,
    *,
    symbol: str,
    worker: Worker,
    cache: CompileCache | None = None,
    schedule: Schedule | None = None,
    texts: bool = False,
) -> Compiled:
    """Compile ``program`` for one target; ``symbol`` starts every kernel's name.

    ``schedule`` overrides the heuristic; ``texts`` asks for TIR and assembly, which are never cached. Raises
    ``UnsupportedError`` for a program that no kernel covers, ``ScheduleError`` for a record that does not fit it and
    ``CompileError`` where code generation fails.
    """
    form, folded = read_program(program, weights)
    if schedule is not None:
        check_record(schedule, form, target.machine)
    record = schedule or choose(form, target)
    kernels = _kernels(Job(form, record, target, symbol, texts), worker, cache)
    return Compiled(
        target=target.name,
        plan=kernels.plan,
        object_code=kernels.object_code,
        weights=pack_weights(Layer(form, record), folded),
        schedule=record.to_json(),
        schedule_source="heuristic" if schedule is None else "given",
        tir=kernels.tir,
        assembly=kernels.assembly,
    )


def read_program(program: Program, weights: Weights) -> tuple[Form, dict[str, NDArray[np.float32]]]:
    """The form that kernels are generated from, and the weights with every scale and shift folded in."""
    canonical, folded = fold_scale_shift(canonicalize(program), weights)
    return read_form(canonicalize(canonical), {name: array.shape for name, array in folded.items()}), folded


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
    target = {"name": job.target.name, "tvm": dict(job.target.tvm), "lanes": job.target.machine.float_lanes}
    parts = {
        "form": repr(job.form),
        "schedule": job.record.to_json(),
        "symbol": job.symbol,
        "target": target,
        "tools": tool_versions(),
        "source": source_digest(),
    }
    return json.dumps(parts, sort_keys=True)

