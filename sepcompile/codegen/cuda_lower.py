"""From a form and a CUDA schedule to images: which kernels a layer needs, how they are launched, what is packed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sepcompile.codegen import cuda_pipeline
from sepcompile.codegen.cubin import Resources, resources
from sepcompile.codegen.cuda_pipeline import CudaFunction
from sepcompile.codegen.data import data_folder
from sepcompile.codegen.nvrtc import compile_image
from sepcompile.codegen.plan import CompiledKernels, Launch, Plan, Step
from sepcompile.compute import cuda_kernels as ck
from sepcompile.compute.cuda_record import CudaSchedule, between_dtype, padded_channels
from sepcompile.compute.cuda_rowwise import CudaRows, rowwise_kernel
from sepcompile.compute.cuda_tile import Grid, GuardedView
from sepcompile.compute.form import Form
from sepcompile.errors import CompileError
from sepcompile.schedule import cuda_apply, cuda_tensor

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SCALARS = ("rows", "blocks")
_MOST_INDEX = 2**31 - 1
STATIC_SHARED_BYTES = 48 * 1024
RESERVED_SHARED_BYTES = 1024  # the driver's own, counted in cubins from sm_90 on


class _Kernel(Protocol):
    @property
    def func(self) -> Any: ...
    @property
    def operands(self) -> dict[str, str]: ...
    @property
    def views(self) -> dict[str, GuardedView]: ...
    @property
    def grid(self) -> Grid: ...


@dataclass
class _Kernels:
    """The kernels of a layer in order, with the buffers between them."""

    symbol: str
    functions: list[CudaFunction] = field(default_factory=list)
    operands: list[dict[str, str]] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    intermediates: list[tuple[str, int]] = field(default_factory=list)

    def buffer(self, name: str, nbytes: int) -> str:
        self.intermediates.append((name, nbytes))
        return f"t:{name}"

    def add(self, kernel: _Kernel, scheduled: Any) -> None:
        name = f"{self.symbol}_k{len(self.functions)}"
        self.functions.append(cuda_pipeline.lower(scheduled, name, kernel.views))
        self.operands.append(kernel.operands)
        self.grids.append(kernel.grid)


def compile_form(
    form: Form, record: CudaSchedule, images: tuple[str, ...], *, symbol: str, texts: bool = False
) -> CompiledKernels:
    """Compile a form under a schedule into one image for each of ``images`` (``sm_90``, ``compute_75``).

    ``texts`` gives the CUDA C instead of assembly. Raises ``CompileError``, also for a kernel that spills registers.
    """
    kernels = _kernels(form, record, symbol)
    source = "\n".join([prelude(), *(function.source for function in kernels.functions)])
    built = tuple((arch, _image(source, arch)) for arch in images)
    most = _most_batch(form, record)
    steps, launches = [], []
    for function, operands, grid in zip(kernels.functions, kernels.operands, kernels.grids, strict=True):
        names = tuple(name if name in _SCALARS else operands[name] for name in function.parameters)
        steps.append(Step(function.name, names, 1, 0, 0))
        launches.append(Launch(grid.unit, grid.tile, grid.times, grid.y, function.block, 0, most))
    plan = Plan(tuple(steps), tuple(kernels.intermediates), _x_bytes(form), _y_bytes(form))
    return CompiledKernels(plan, b"", source if texts else "", "", tuple(launches), built)


def prelude() -> str:
    """What the kernels use of CUDA, in place of its headers."""
    return (data_folder("templates") / "cuda_prelude.cu").read_text(encoding="utf-8")


def cuda_source(form: Form, record: CudaSchedule, symbol: str) -> str:
    """The CUDA C of a layer's kernels, without the prelude."""
    return "\n".join(function.source for function in _kernels(form, record, symbol).functions)


def _kernels(form: Form, record: CudaSchedule, symbol: str) -> _Kernels:
    # A row-wise activation reads the layer's sums, which stay float32 and channels last until it has run.
    inner = replace(form, out_dtype="float32", channels_first_out=False) if form.rowwise else form
    kernels = _Kernels(symbol)
    product = cuda_tensor.schedule_product if record.tensor else cuda_apply.schedule_pointwise
    result = kernels.buffer("sums", math.prod(form.image) * 4) if form.rowwise else "y"
    if form.pointwise is None:
        layer = ck.depthwise_kernel(inner, record, "x", result)
        kernels.add(layer, cuda_apply.schedule_depthwise(layer))
    elif record.split:
        item = _ITEM_BYTES[between_dtype(form, record)]
        pixels = form.out_height * form.out_width
        between = kernels.buffer("depthwise", pixels * padded_channels(form, record) * item)
        first = ck.depthwise_kernel(inner, record, "x", between)
        kernels.add(first, cuda_apply.schedule_depthwise(first))
        second = ck.pointwise_kernel(inner, record, between, result)
        kernels.add(second, product(second))
    else:
        fused = ck.fused_kernel(inner, record, "x", result)
        kernels.add(fused, product(fused))
    if form.rowwise:
        axis = form.rowwise.axis or 3
        rows = CudaRows(form.rowwise.kind, form.image, axis, form.channels_first_out, form.out_dtype)
        row_kernel = rowwise_kernel(rows, result, "y")
        kernels.add(row_kernel, cuda_apply.schedule_rowwise(row_kernel))
    return kernels


def _image(source: str, arch: str) -> bytes:
    """One image. A kernel that spills registers to memory would be slow unseen, so none is shipped.

    ptxas may spill a register or two to fit more blocks on a multiprocessor; asked for one block, it need not.
    """
    image = compile_image(source, arch)
    if _misfits(image, arch):
        image = compile_image(re.sub(r"__launch_bounds__\((\d+)\)", r"__launch_bounds__(\1, 1)", source), arch)
    for name, needs in _misfits(image, arch).items():
        raise CompileError(f"{name} for {arch}: {needs} spills registers, or its shared memory is too large")
    return image


def _misfits(image: bytes, arch: str) -> dict[str, Resources]:
    most = STATIC_SHARED_BYTES + RESERVED_SHARED_BYTES
    found = resources(image) if arch.startswith("sm_") else {}
    return {name: needs for name, needs in found.items() if needs.stack_bytes or needs.shared_bytes > most}


def _most_batch(form: Form, record: CudaSchedule) -> int:
    """The largest batch whose every tensor has fewer elements than an int32 index can count."""
    between = form.out_height * form.out_width * padded_channels(form, record)
    largest = max(form.height * form.width * form.channels, math.prod(form.image), between)
    # A whole tile past the last pixel is still indexed, though not touched.
    slack = record.tile_rows * record.tile_columns * max(padded_channels(form, record), form.out_channels)
    return max(1, (_MOST_INDEX - slack) // largest)


def _x_bytes(form: Form) -> int:
    return form.height * form.width * form.channels * _ITEM_BYTES[form.in_dtype]


def _y_bytes(form: Form) -> int:
    return math.prod(form.final_image) * _ITEM_BYTES[form.out_dtype]
