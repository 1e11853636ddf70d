"""Scheduled TIR to CUDA C, without a GPU, a driver or a CUDA toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import transform as st
from tvm.tirx import transform as tx

from sepcompile.codegen.cuda_passes import lower_copies, lower_fragments
from sepcompile.compute.cuda_tile import GuardedView
from sepcompile.errors import CompileError

# TVM asks for a compute capability, but what it generates from our schedules does not depend on it.
_TARGET = {"kind": "cuda", "arch": "sm_80", "max_threads_per_block": 1024}


@dataclass(frozen=True)
class CudaFunction:
    """One kernel in CUDA C: its name, its parameters in order (buffers and scalars by name), its threads per block."""

    name: str
    source: str
    parameters: tuple[str, ...]
    block: tuple[int, int, int]


def lower(func: Any, name: str, views: Mapping[str, GuardedView]) -> CudaFunction:
    """CUDA C of one scheduled PrimFunc; ``views`` says where its outputs lie."""
    target = _target()
    mod = tvm.IRModule({name: func.with_attr("global_symbol", name)})
    mod = tx.BindTarget(target)(mod)
    # One allocation for all tiles in shared memory: those that are not alive together share their place.
    with target, tvm.transform.PassContext(config={"tirx.merge_static_smem": True}):
        mod = tvm.ir.transform.Sequential(_to_loops())(mod)
        mod = tvm.IRModule({name: _apply_views(mod[name], views)}, attrs=mod.attrs)
        mod = tvm.ir.transform.Sequential(_to_vectors())(mod)
        mod = tvm.IRModule({name: lower_fragments(lower_copies(mod[name]))}, attrs=mod.attrs)
        mod = tvm.ir.transform.Sequential(_to_device())(mod)
        device = tx.Filter(lambda f: "calling_conv" in f.attrs and int(f.attrs["calling_conv"]) == 2)(mod)
        device = tvm.ir.transform.Sequential([tx.LowerWarpMemory(), tx.StmtSimplify(), tx.LowerIntrin()])(device)
    kernels = list(device.functions.values())
    if len(kernels) != 1:
        raise CompileError(f"{name}: {len(kernels)} device kernels where one was expected")
    text = tvm.get_global_func("target.build.cuda")(device, target).inspect_source("cuda")
    parameters = tuple(str(p.name).removesuffix("_ptr") for p in kernels[0].params)
    symbol = str(kernels[0].attrs["global_symbol"])
    return CudaFunction(symbol, _body(text), parameters, _block(kernels[0]))


def _body(text: str) -> str:
    """The kernel itself: what stands before it are TVM's includes, which our prelude replaces."""
    start = text.find('extern "C" __global__')
    if start < 0:
        raise CompileError("TVM generated no kernel")
    return text[start:]


def _block(func: Any) -> tuple[int, int, int]:
    """Threads per block, from the kernel's thread extents."""
    found = {"threadIdx.x": 1, "threadIdx.y": 1, "threadIdx.z": 1}

    def visit(node: Any) -> None:
        if node.attr_key == "thread_extent" and node.node.thread_tag in found:
            found[node.node.thread_tag] = int(node.value)

    tvm_ffi.structural_walk(func.body, ((tirx.AttrStmt, visit),))
    return found["threadIdx.x"], found["threadIdx.y"], found["threadIdx.z"]


@cache
def _target() -> Any:
    return tvm.target.Target(_TARGET, host={"kind": "llvm"})


def _to_loops() -> Sequence[Any]:
    return [
        st.CanonicalizeLoop(), st.LowerCrossThreadReduction(), st.LowerInitBlock(),
        st.PlanAndUpdateBufferAllocationLocation(), st.ConvertBlocksToOpaque(), st.LiftThreadBinding(),
        st.CompactBufferAllocation(), st.UnifyThreadBinding(), st.LowerMatchBuffer(), st.StmtSimplify(),
        st.AnnotateIrregularLoop(), st.InjectSoftwarePipeline(), st.LowerOpaqueBlock(),
    ]  # fmt: skip


def _to_vectors() -> Sequence[Any]:
    return [tx.FlattenBuffer(), tx.NarrowDataType(32), tx.VectorizeLoop(True), st.InjectVirtualThread()]


def _to_device() -> Sequence[Any]:
    return [
        st.InjectDoubleBuffer(), st.HoistIfThenElse(), tx.UnrollLoop(), st.RenormalizeSplitPattern(),
        tx.StmtSimplify(), tx.RemoveNoOp(), st.RewriteUnsafeSelect(), tx.CommonSubexprElim(), tx.VerifyMemory(),
        # Barriers come after tiles were given the same place, so that they keep those apart as well.
        tx.AnnotateEntryFunc(), st.MergeSharedMemoryAllocations(), st.ThreadSync("shared"),
        st.LowerThreadAllreduce(), tx.SplitHostDevice(),
    ]  # fmt: skip


def _apply_views(func: Any, views: Mapping[str, GuardedView]) -> Any:
    """Replace each viewed output by a flat buffer and guard the stores to it."""
    flat: dict[Any, tuple[Any, GuardedView]] = {}
    for param in func.params:
        if str(param.name) in views and tirx.buffer.is_buffer_var(param):
            view = views[str(param.name)]
            flat[param] = (tirx.decl_buffer((2**31 - 1,), param.dtype, param.name), view)

    def store(node: Any) -> Any:
        if node.buffer not in flat:
            return node
        buffer, view = flat[node.buffer]
        inside = view.inside(node.indices)
        new = tirx.BufferStore(buffer, node.value, [view.store(node.indices)])
        return new if inside is None else tirx.IfThenElse(inside, new, None)

    body = tvm_ffi.structural_map(func.body, [(tirx.BufferStore, store)])
    params = [flat[p][0] if p in flat else p for p in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)
