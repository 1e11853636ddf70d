"""From TVM's tensor-core and asynchronous nodes to the functions of ``templates/cuda_prelude.cu``.

A fragment of a warp becomes registers of each of its lanes: four 32-bit ones of an operand, eight float32 of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call

_OPERAND_REGISTERS, _SUM_REGISTERS, _LANES = 4, 8, 32
_KINDS = {"float16": "f16", "bfloat16": "bf16", "float32": "tf32"}
_SUMS, _LEFT = "wmma.accumulator", "wmma.matrix_a"


def lower_fragments(func: Any) -> Any:
    """Fragments as registers, and what is done with them as calls of ``sep_load_a``, ``sep_mma_f16`` and so on."""
    registers = _Registers(func)

    def allocate(node: Any) -> Any:
        found = registers.of.get(node.buffer)
        return node if found is None else tirx.AllocBuffer(found, node.annotations)

    body = tvm_ffi.structural_map(func.body, [(Call, registers.call), (tirx.AllocBuffer, allocate)])
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


class _Registers:
    """The registers that stand for each fragment buffer."""

    def __init__(self, func: Any) -> None:
        self.of: dict[Any, Any] = {}
        tvm_ffi.structural_walk(func.body, ((tirx.AllocBuffer, self._allocate),))
        self._calls: dict[str, Callable[..., Any]] = {
            "tirx.tvm_fill_fragment": self._fill,
            "tirx.tvm_load_matrix_sync": self._load,
            "tirx.tvm_mma_sync": self._multiply,
            "tirx.tvm_store_matrix_sync": self._store,
        }

    def call(self, node: Any) -> Any:
        lowered = self._calls.get(getattr(node.op, "name", ""))
        return node if lowered is None else lowered(*node.args)

    def _allocate(self, node: Any) -> None:
        buffer = node.buffer
        if not str(buffer.scope()).startswith("wmma."):
            return
        size = math.prod(int(extent) for extent in buffer.shape)
        dtype = "float32" if buffer.scope() == _SUMS else "uint32"
        # Two 16-bit elements share a register.
        count = size // _LANES // (2 if str(buffer.dtype) in ("float16", "bfloat16") else 1)
        name = f"{str(buffer.name).replace('.', '_')}"
        self.of[buffer] = tirx.decl_buffer((count,), dtype, name, scope="local")

    def _at(self, data: Any, index: Any) -> Any:
        """The address of fragment ``index`` of a buffer, given as its data pointer."""
        buffer = data.args[0]
        each = _SUM_REGISTERS if buffer.scope() == _SUMS else _OPERAND_REGISTERS
        return tirx.address_of(tirx.BufferLoad(self.of[buffer], [index * each]))

    def _fill(self, data: Any, _m: Any, _n: Any, _k: Any, index: Any, value: Any) -> Any:
        return _call("sep_fill", self._at(data, index), value)

    def _load(self, data: Any, _m: Any, _n: Any, _k: Any, index: Any, source: Any, stride: Any, _: Any) -> Any:
        name = "sep_load_a" if data.args[0].scope() == _LEFT else "sep_load_b"
        return _call(name, self._at(data, index), source, stride)

    def _multiply(self, sums: Any, i: Any, left: Any, j: Any, right: Any, k: Any, *_: Any) -> Any:
        name = f"sep_mma_{_KINDS[str(left.args[0].dtype)]}"
        return _call(name, self._at(sums, i), self._at(left, j), self._at(right, k))

    def _store(self, data: Any, _m: Any, _n: Any, _k: Any, index: Any, target: Any, stride: Any, _: Any) -> Any:
        return _call("sep_store", target, self._at(data, index), stride)


def lower_copies(func: Any) -> Any:
    """Asynchronous stages of a pipeline as ``sep_copy``, ``sep_commit`` and ``sep_wait``."""

    def attribute(node: Any) -> Any:
        if node.attr_key == "async_scope":
            return tvm_ffi.structural_map(node.body, [(tirx.BufferStore, _copy)])
        if node.attr_key == "async_commit_queue_scope":
            return tirx.SeqStmt([node.body, tirx.Evaluate(_call("sep_commit"))])
        if node.attr_key == "async_wait_queue_scope":
            inner = node.body
            wait = tirx.Evaluate(_call(f"sep_wait<{int(inner.value)}>"))
            # A thread waits for its own copies only; TVM's placement of barriers knows nothing of that.
            barrier = tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))
            return tirx.SeqStmt([wait, barrier, inner.body])
        return node

    body = tvm_ffi.structural_map(func.body, [(tirx.AttrStmt, attribute)])
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def _copy(node: Any) -> Any:
    """A vector's store to shared memory from device memory, zero where its condition fails."""
    value, inside = node.value, tirx.const(True, "bool")
    if isinstance(value, Call) and value.op.name == "prim.if_then_else":
        inside, value, _ = value.args
    (to,), (at,) = node.indices, value.indices
    dtype, lanes = str(node.buffer.dtype), int(to.lanes)
    target = tirx.tvm_access_ptr(tirx.type_annotation(dtype), node.buffer.data, to.base, lanes, 2)
    source = tirx.address_of(tirx.BufferLoad(value.source, [at.base]))
    nbytes = lanes * (4 if dtype == "float32" else 2)
    return tirx.Evaluate(_call(f"sep_copy<{nbytes}>", target, source, inside))


def _call(name: str, *arguments: Any) -> Any:
    return tirx.call_extern("void", name, *arguments)
