"""Layers compiled for a GPU and run through the real loader on the stand-in driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sepcompile.codegen import cuda_lower
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.frontend import ImportedLayer
from sepcompile.ir import stages
from sepcompile.runtime.cuda import CudaLayer
from sepcompile.runtime.cuda_manifest import CudaEntry, ImageEntry, LaunchEntry
from sepcompile.runtime.cuda_residual import CudaResidualLayer
from sepcompile.runtime.inputs import TensorSpec
from sepcompile.runtime.manifest import PlanEntry, StepEntry
from sepcompile.targets import Target, get_target
from tests.compile.cases import form_of, read
from tests.cuda.emulator import library

Config = Mapping[str, Any]
Edit = Callable[[str], str]


def target() -> Target:
    return get_target("cuda-sm_90")


def imported(name: str, config: Config, shape: tuple[int, ...]) -> ImportedLayer:
    causal = config.get("padding") == "causal"
    return read(name, config, (None, *shape), keras_version="2" if causal else "3.15")


def cuda_form(layer: ImportedLayer, precision: str = "float32") -> Form:
    """The form that kernels of ``precision`` are generated from."""
    return dataclasses.replace(form_of(layer), precision=precision)


def compiled(layer: ImportedLayer, record: CudaSchedule | None = None, precision: str = "float32") -> Compiled:
    return compile_variant(
        layer.program, layer.weights, target(),
        symbol="layer", worker=shared_worker(), schedule=record, precision=precision,
    )  # fmt: skip


def cuda_source(layer: ImportedLayer, built: Compiled, precision: str = "float32") -> str:
    """The CUDA C that ``built`` was compiled from."""
    return cuda_lower.cuda_source(cuda_form(layer, precision), CudaSchedule.from_json(built.schedule), "layer")


def emulated_layer(
    layer: ImportedLayer,
    built: Compiled,
    edit: Edit = lambda source: source,
    precision: str = "float32",
    software: bool = False,
) -> CudaLayer:
    """The layer with its kernels emulated on the CPU; ``edit`` may change their CUDA C."""
    image = library(edit(cuda_source(layer, built, precision)), software)
    steps = tuple(StepEntry(s.symbol, s.operands, s.tasks, s.scratch_bytes, s.macs_per_task) for s in built.plan.steps)
    plan = PlanEntry(steps, built.plan.intermediates, built.plan.x_bytes, built.plan.y_bytes)
    program = layer.program
    kind = CudaLayer if program.residual is None else CudaResidualLayer
    return kind(
        name=program.name,
        variant="cuda-sm_90",
        plan=plan,
        cuda=CudaEntry((ImageEntry("sm_90", "image"),), tuple(LaunchEntry(**vars(x)) for x in built.launches)),
        read_image=lambda _: image,
        weights=built.weights,
        input_spec=_spec(program.input),
        output_spec=_spec(program.output),
    )


def _spec(spec: stages.TensorSpec) -> TensorSpec:
    return TensorSpec(spec.shape, array_dtype(spec.dtype), spec.dtype == "bfloat16")


def array_dtype(dtype: str) -> np.dtype:
    """What NumPy holds values of the IR's ``dtype`` in."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def integers(layer: ImportedLayer, batch: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (batch, *(int(size or 0) for size in layer.program.input.shape[1:]))
    return rng.integers(-3, 4, shape).astype(array_dtype(layer.program.input.dtype))
