"""Layers compiled for a GPU and run through the real loader on the stand-in driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sepcompile.codegen import cuda_lower
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.frontend import ImportedLayer
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


def compiled(layer: ImportedLayer, record: CudaSchedule | None = None) -> Compiled:
    return compile_variant(
        layer.program, layer.weights, target(), symbol="layer", worker=shared_worker(), schedule=record
    )


def emulated_layer(layer: ImportedLayer, built: Compiled, edit: Edit = lambda source: source) -> CudaLayer:
    """The layer with its kernels emulated on the CPU; ``edit`` may change their CUDA C."""
    record = CudaSchedule.from_json(built.schedule)
    image = library(edit(cuda_lower.cuda_source(form_of(layer), record, "layer")))
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
        input_spec=TensorSpec(program.input.shape, np.dtype(program.input.dtype)),
        output_spec=TensorSpec(program.output.shape, np.dtype(program.output.dtype)),
    )


def integers(layer: ImportedLayer, batch: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (batch, *(int(size or 0) for size in layer.program.input.shape[1:]))
    return rng.integers(-3, 4, shape).astype(layer.program.input.dtype)
