"""The TVM pipeline: scheduled TIR to a bare C function.

The stock pipeline ends in TVM's packed calling convention, which wants TVM's runtime on the device and 64-byte aligned
tensors. Ours ends in ``void k(const T* x, ..., T* y, uint8_t* scratch, int32_t task_begin, int32_t task_end)``: no
undefined symbol, element alignment, the caller's scratch memory, and the parallel loop as a range of tasks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import transform as st
from tvm.sym import Analyzer
from tvm.tirx import transform as tx
from tvm.tirx.buffer import is_buffer_var

from sepcompile.codegen.fused import fuse_multiply_adds
from sepcompile.codegen.prefetch import prefetch_ahead
from sepcompile.codegen.repeats import repeat_by_shuffle
from sepcompile.codegen.strided import strided_by_shuffle
from sepcompile.compute.kernel import Ahead
from sepcompile.compute.views import View
from sepcompile.errors import CompileError

PIPELINE = "sepcompile_bare"


@dataclass(frozen=True)
class Memory:
    """Where a kernel's buffers go: those below ``stack_bytes`` stay on the stack, where LLVM can keep them in registers
    (TVM's own kMaxStackAlloca), the others start at multiples of ``alignment`` in the caller's scratch."""

    stack_bytes: int = 1024
    alignment: int = 64


@dataclass(frozen=True)
class Lowered:
    """One bare function and the scratch memory that a call of it needs, in bytes per thread."""

    func: Any
    scratch_bytes: int


def lower(
    func: Any,
    name: str,
    target: Mapping[str, object],
    views: Mapping[str, View],
    memory: Memory | None = None,
    neon: bool = False,
    ahead: Ahead | None = None,
    fuse: bool = False,
) -> Lowered:
    """Lower one scheduled PrimFunc to the bare ABI; ``views`` gives the memory layout of buffers by name.

    ``neon``: the target multiplies by one lane of a vector, and has instructions for maxima that keep NaN.
    ``ahead``: what is asked for early. ``fuse``: multiply-adds are to be fused by name (``codegen.fused``).
    """
    mod = tvm.IRModule({name: func.with_attr("global_symbol", name)})
    mod = tx.BindTarget(_target(_fixed_width(target)))(mod)
    mod = tvm.ir.transform.Sequential(_TO_LOOPS)(mod)
    mod = tvm.IRModule({name: _apply_views(mod[name], views)})
    mod = tvm.ir.transform.Sequential(_TO_FLAT_VECTORS)(mod)
    if ahead is not None:
        mod = tvm.IRModule({name: prefetch_ahead(mod[name], ahead)})
    if neon:
        mod = tvm.IRModule({name: _extrema_by_instruction(_broadcast_by_lane(mod[name], views))})
    if fuse:
        mod = tvm.IRModule({name: fuse_multiply_adds(mod[name])})
    mod = tx.CommonSubexprElim()(tvm.IRModule({name: repeat_by_shuffle(mod[name])}))
    scratch = _Scratch(memory or Memory())
    bare = _bare(strided_by_shuffle(mod[name]), scratch)
    mod = tvm.ir.transform.Sequential(_LEGALIZE)(tvm.IRModule({name: bare}))
    return Lowered(mod[name].with_attr("target", _target(target)), scratch.size)


def build(lowered: Mapping[str, Lowered], target: Mapping[str, object]) -> Any:
    """Compile lowered functions into one TVM module; ``target`` is TVM's target dict."""
    mod = tvm.IRModule({name: item.func for name, item in lowered.items()})
    return tirx.build(mod, target=_target(target), pipeline=PIPELINE)


def object_code(module: Any) -> bytes:
    """The relocatable object of a built module."""
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        path = Path(folder) / "kernels.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def text(lowered: Mapping[str, Lowered]) -> str:
    """The lowered TIR as TVMScript."""
    return str(tvm.IRModule({name: item.func for name, item in lowered.items()}).script())


# LLVM would turn copying and clearing loops into calls of memcpy and memset, which a bare library does not have.
_LLVM_OPTIONS = ["-disable-loop-idiom-all:bool=true"]


# What makes TVM turn vectors of our size into loops over scalable ones, with a mask in each step.
_SCALABLE = ("+v", "+sve")


def _fixed_width(target: Mapping[str, object]) -> Mapping[str, object]:
    """The target as loops are lowered for it; LLVM itself is given the whole one."""
    features = target.get("mattr")
    if not isinstance(features, list | tuple):
        return target
    return {**target, "mattr": [name for name in features if name not in _SCALABLE]}


def _target(target: Mapping[str, object]) -> Any:
    bare = {**target, "cl-opt": _LLVM_OPTIONS}
    return tvm.target.Target(bare, host=bare)


_TO_LOOPS = [
    st.CanonicalizeLoop(),
    st.LowerInitBlock(),
    st.PlanAndUpdateBufferAllocationLocation(),
    st.ConvertBlocksToOpaque(),
    st.CompactBufferAllocation(),
    st.LowerMatchBuffer(),
    st.StmtSimplify(),
    st.AnnotateIrregularLoop(),
    st.LowerOpaqueBlock(),
]
_TO_FLAT_VECTORS = [
    tx.FlattenBuffer(),
    tx.NarrowDataType(32),
    tx.VectorizeLoop(True),
    tx.StorageRewrite(),
    st.HoistIfThenElse(),
    tx.UnrollLoop(),
    st.RenormalizeSplitPattern(),
    tx.StmtSimplify(),
    tx.RemoveNoOp(),
    st.RewriteUnsafeSelect(),
]
_LEGALIZE = [tx.VerifyMemory()]


def _apply_views(func: Any, views: Mapping[str, View]) -> Any:
    """Replace each viewed buffer by a flat one and rewrite its accesses."""
    flat: dict[Any, tuple[Any, View]] = {}

    def replacement(old: Any) -> tuple[Any, View] | None:
        if old.name not in views:
            return None
        if old not in flat:
            view = views[old.name]
            flat[old] = (tirx.decl_buffer((view.size,), old.dtype, old.name, scope=old.scope()), view)
        return flat[old]

    def load(node: Any) -> Any:
        found = replacement(node.source)
        return node if found is None else found[0].vload([found[1].load(node.indices)])

    def store(node: Any) -> Any:
        found = replacement(node.buffer)
        return node if found is None else tirx.BufferStore(found[0], node.value, [found[1].store(node.indices)])

    def alloc(node: Any) -> Any:
        found = replacement(node.buffer)
        return node if found is None else tirx.AllocBuffer(found[0], node.annotations)

    body = tvm_ffi.structural_map(
        func.body, [(TensorLoad, load), (tirx.BufferStore, store), (tirx.AllocBuffer, alloc)]
    )
    params = [flat[p][0] if p in flat else p for p in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _broadcast_by_lane(func: Any, views: Mapping[str, View]) -> Any:
    """Broadcasts of single elements as lanes of whole vectors, where the buffer's view holds whole vectors.

    One load then serves as many steps of a product as the vector has lanes; LLVM would load each element.
    """
    analyzer = Analyzer()

    def broadcast(node: Any) -> Any:
        load = node.value
        width = views[load.source.name].vector if isinstance(load, TensorLoad) and load.source.name in views else 1
        if width == 1 or len(load.indices) != 1:
            return node
        where = analyzer.modular_set(load.indices[0])
        if int(where.coeff) % width:
            return node
        lane = int(where.base) % width
        vector = load.source.vload([tirx.Ramp(load.indices[0] - lane, 1, width)])
        return tirx.Broadcast(tirx.Shuffle([vector], [lane]), node.lanes)

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.Broadcast, broadcast)]))


def _extrema_by_instruction(func: Any) -> Any:
    """Maxima and minima with a constant as LLVM's ``maximum`` and ``minimum``, which keep NaN as ours do.

    Arm has an instruction for either; a comparison and a selection, which TVM gives, take two.
    """

    def rule(name: str) -> Any:
        def extremum(node: Any) -> Any:
            constant = node.a.value if isinstance(node.a, tirx.Broadcast) else node.a
            if not isinstance(constant, tirx.FloatImm) or not str(node.ty.dtype).startswith("float32"):
                return node
            return tirx.call_llvm_pure_intrin(node.ty.dtype, f"llvm.{name}", node.a, node.b)

        return extremum

    rules = [(tirx.Max, rule("maximum")), (tirx.Min, rule("minimum"))]
    return func.with_body(tvm_ffi.structural_map(func.body, rules))


class _Scratch:
    """Hands out aligned offsets into the caller's scratch memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.size = 0

    def take(self, nbytes: int) -> int:
        offset = self.size
        alignment = self.memory.alignment
        self.size = -(-(offset + nbytes) // alignment) * alignment
        return offset


def _bare(func: Any, scratch: _Scratch) -> Any:
    """Turn buffer parameters into raw pointers, scratch into the caller's and the parallel loop into a task range."""
    params: list[Any] = []
    decls: list[Any] = []
    for param in func.params:
        if not is_buffer_var(param):
            params.append(param)
            continue
        handle = tirx.Var(param.name, tirx.buffer_data_pointer_type(param))
        params.append(handle)
        decls.append(tirx.DeclBuffer(param, data=handle))
    arena = tirx.Var("scratch", tvm.ir.PointerType(tvm.ir.PrimType("uint8")))
    begin, end = tirx.Var("task_begin", "int32"), tirx.Var("task_end", "int32")

    def alloc(node: Any) -> Any:
        nbytes = _nbytes(node.buffer)
        if node.buffer.scope() == "local" or nbytes < scratch.memory.stack_bytes:
            keep = {**dict(node.annotations or {}), "disable_lower_builtin": tirx.IntImm("int32", 1)}
            return tirx.AllocBuffer(node.buffer, keep)
        where = tirx.handle_add_byte_offset(arena, scratch.take(nbytes))
        return tirx.DeclBuffer(node.buffer, data=tirx.reinterpret(tirx.buffer_data_pointer_type(node.buffer), where))

    loops = 0

    def task_range(node: Any) -> Any:
        nonlocal loops
        if node.kind != tirx.ForKind.PARALLEL:
            return node
        loops += 1
        return tirx.For(node.loop_var, begin, end - begin, tirx.ForKind.SERIAL, node.body, None, {})

    body = tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, alloc), (tirx.For, task_range)])
    if loops == 0:
        # A loop over a single task is simplified away; an empty range must still do nothing.
        body = tirx.For(tirx.Var("task", "int32"), begin, end - begin, tirx.ForKind.SERIAL, body, None, {})
    if loops > 1:
        raise CompileError(f"a kernel must have one task loop, {func.attrs['global_symbol']} has {loops}")
    bare = tirx.PrimFunc([*params, arena, begin, end], tirx.SeqStmt([*decls, body]), func.ret_type, func.attrs)
    return bare.with_attr("calling_conv", 1)


def _nbytes(buffer: Any) -> int:
    size = tvm.DataType(buffer.dtype).itemsize
    for extent in buffer.shape:
        size *= int(extent)
    return int(size)


def _factory() -> tuple[Any, Any, Any]:
    identity = tvm.transform.module_pass(lambda mod, _context: mod, opt_level=0)
    host = tvm.ir.transform.Sequential([tx.LowerTVMBuiltin(), tx.LowerIntrin()])
    return identity, lambda: host, lambda: host


tirx.register_tir_pipeline(PIPELINE, _factory)
