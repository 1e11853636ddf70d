"""Software prefetch: the input of the next task is asked for, line by line, while the product of this one runs.

Hardware prefetchers follow a stream that is being read, but between two blocks the product reads none of the input. On
images beyond the second level of cache the next block then waits for its first rows.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from sepcompile.compute.kernel import Ahead, buffer_name
from sepcompile.schedule.cpu import AHEAD_LOOP

Expr = Any
LINE_BYTES = 64
# Arguments of ``tirx.prefetch``: for reading, into all levels, data.
_READ, _KEEP, _DATA = 0, 3, 1


def prefetch_ahead(func: Expr, ahead: Ahead) -> Expr:
    """Spread requests for what ``ahead`` names over the loops that the schedule marked.

    ``func`` has flat buffers and its operand of that name is a parameter. A prefetch never faults, and every address
    lies inside the operand all the same.
    """
    marked: dict[int, Expr] = {}

    def note(node: Expr) -> Expr:
        if AHEAD_LOOP in (node.annotations or {}):
            marked[int(node.annotations[AHEAD_LOOP])] = node
        return node

    tvm_ffi.structural_map(func.body, [(tirx.For, note)])
    # A loop that runs once is gone by now.
    block, *spread = (marked[role] for role in sorted(marked)) if 0 in marked else (None,)
    innermost = max(marked, default=0)

    def place(node: Expr) -> Expr:
        if AHEAD_LOOP not in (node.annotations or {}):
            return node
        body = node.body
        if block is not None and spread and int(node.annotations[AHEAD_LOOP]) == innermost:
            body = tirx.SeqStmt([*_requests(_flat(func, buffer_name(ahead.operand)), ahead, block, spread), body])
        return tirx.For(node.loop_var, node.min, node.extent, node.kind, body, node.thread_binding, {})

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.For, place)]))


def _requests(buffer: Expr, ahead: Ahead, block: Expr, spread: list[Expr]) -> list[Expr]:
    """The requests of one iteration of the innermost loop of ``spread``."""
    iteration = tirx.const(0, "int32")
    for loop in spread:
        iteration = iteration * loop.extent + loop.loop_var
    share = -(-ahead.step // math.prod(int(loop.extent) for loop in spread))
    line = LINE_BYTES // tvm.DataType(buffer.dtype).itemsize
    start = tirx.max((block.loop_var + 1) * ahead.step + ahead.first, 0) + iteration * share
    return [_request(buffer, tirx.min(start + i, ahead.total - 1)) for i in range(0, share, line)]


def _request(buffer: Expr, element: Expr) -> Expr:
    address = tirx.address_of(buffer.vload([element]))
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, _READ, _KEEP, _DATA))


def _flat(func: Expr, name: str) -> Expr:
    """The one-dimensional buffer through which an operand is read."""
    found: list[Expr] = []

    def note(node: Expr) -> Expr:
        if len(node.source.shape) == 1 and node.source.name == name:
            found.append(node.source)
        return node

    tvm_ffi.structural_map(func.body, [(TensorLoad, note)])
    return found[0]
