"""Tensor intrinsics of a warp's fragments: load, multiply, clear and store, as ``tensorize`` takes them.

They are what ``tvm.s_tir.tensor_intrin.cuda`` describes, built directly: importing that package parses 248 functions of
all targets from their own source text, which takes 30 seconds of a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize, TensorIntrin

FRAGMENT = 16
"""Pixels and filters of one fragment."""
_SUMS, _ROWS = "wmma.accumulator", "row_major"

Buffer = Any


@cache
def load(dtype: str, depth: int, right: bool) -> str:
    """The name of the copy of a left or right operand's fragment, ``depth`` channels deep, from shared memory."""
    shape = (depth, FRAGMENT) if right else (FRAGMENT, depth)

    def call(source: Buffer, to: Buffer) -> Any:
        return _call(
            "load_matrix_sync", to.data, *_sizes(depth), _index(to), _address(source, "r"), _row(source), _ROWS
        )

    operands = ((shape, dtype, "shared"), (shape, dtype, f"wmma.matrix_{'b' if right else 'a'}"))
    return _register(f"sep_load_{dtype}_{'b' if right else 'a'}", operands, _copied, call)


@cache
def multiply(dtype: str, depth: int) -> str:
    """The name of the product of two fragments, added to float32 sums."""

    def element(left: Buffer, right: Buffer, sums: Buffer, i: Any, j: Any, k: Any) -> Any:
        a, b = (value if dtype == "float32" else value.astype("float32") for value in (left[i, k], right[k, j]))
        return sums[i, j] + a * b

    def call(left: Buffer, right: Buffer, sums: Buffer) -> Any:
        places = (part for buffer in (sums, left, right, sums) for part in (buffer.data, _index(buffer)))
        return _call("mma_sync", *places)

    operands = (
        ((FRAGMENT, depth), dtype, "wmma.matrix_a"),
        ((depth, FRAGMENT), dtype, "wmma.matrix_b"),
        ((FRAGMENT, FRAGMENT), "float32", _SUMS),
    )
    return _register(f"sep_multiply_{dtype}", operands, element, call, depth)


@cache
def clear() -> str:
    """The name of setting a fragment of sums to zero."""

    def call(sums: Buffer) -> Any:
        return _call("fill_fragment", sums.data, *_sizes(FRAGMENT), _index(sums), tirx.const(0, "float32"))

    operands = (((FRAGMENT, FRAGMENT), "float32", _SUMS),)
    return _register("sep_clear", operands, lambda sums, i, j: tirx.const(0, "float32"), call)


@cache
def store() -> str:
    """The name of the copy of a fragment of sums to shared memory."""

    def call(sums: Buffer, to: Buffer) -> Any:
        place = (_address(to, "w"), _row(to), _ROWS)
        return _call("store_matrix_sync", sums.data, *_sizes(FRAGMENT), _index(sums), *place)

    shape = (FRAGMENT, FRAGMENT)
    return _register("sep_store_sums", ((shape, "float32", _SUMS), (shape, "float32", "shared")), _copied, call)


def _copied(source: Buffer, to: Buffer, i: Any, j: Any) -> Any:
    return source[i, j]


def _register(
    name: str,
    operands: Sequence[tuple[tuple[int, int], str, str]],
    element: Callable[..., Any],
    call: Callable[..., Any],
    depth: int = 0,
) -> str:
    """Registers what is to be recognised and what it becomes; the last operand is written.

    ``element``: the value of an element of the last operand, from all operands and the indices. ``depth``: channels
    that it sums, 0 where it is no sum.
    """
    plain, strided = _buffers(operands, False), _buffers(operands, True)
    described = tirx.PrimFunc(list(plain), _root(plain, _loops(plain, element, depth), depth))
    becomes = tirx.PrimFunc(list(strided), _root(strided, tirx.Evaluate(call(*strided)), depth))
    TensorIntrin.register(name, *(func.with_attr("s_tir", True) for func in (described, becomes)), override=True)
    return name


def _buffers(operands: Sequence[tuple[tuple[int, int], str, str]], strided: bool) -> tuple[Buffer, ...]:
    found = []
    for number, (shape, dtype, scope) in enumerate(operands):
        name = f"m{number}"
        strides = [tirx.Var(f"{name}_{axis}", "int32") for axis in (1, 0)] if strided else None
        found.append(
            tirx.decl_buffer(
                shape, dtype, name, strides=strides, scope=scope, data_alignment=64, offset_factor=shape[1]
            )
        )
    return tuple(found)


def _root(buffers: Sequence[Buffer], body: Any, depth: int) -> Any:
    """The block around both functions' bodies, which says what they read and write as a whole."""
    *sources, target = ([tvm.ir.Range(0, size) for size in buffer.shape] for buffer in buffers)
    regions = [_region(b, r) for b, r in zip(buffers, [*sources, target], strict=True)]
    reads = [regions[-1], *regions[:-1]] if depth else regions[:-1]
    return _realize(SBlock([], reads, [regions[-1]], "root", body), [])


def _loops(buffers: Sequence[Buffer], element: Callable[..., Any], depth: int) -> Any:
    """Loops over the elements of the last operand, and over the channels that they are summed over."""
    target = buffers[-1]
    extents = [*(int(size) for size in target.shape), *([depth] if depth else [])]
    loops = [tirx.Var(name, "int32") for name in "ijk"[: len(extents)]]
    kinds = [tirx.IterVar.DataPar, tirx.IterVar.DataPar, tirx.IterVar.CommReduce]
    axes = [
        tirx.IterVar(tvm.ir.Range(0, extent), tirx.Var(f"v{name}", "int32"), kind)
        for extent, name, kind in zip(extents, "ijk", kinds, strict=False)
    ]
    i, j, *k = (axis.var for axis in axes)
    if depth:
        left, right, _ = buffers
        reads = [_point(target, i, j), _point(left, i, *k), _point(right, *k, j)]
    else:
        reads = [_point(buffer, i, j) for buffer in buffers[:-1]]
    value = element(*buffers, i, j, *k)
    block = SBlock(axes, reads, [_point(target, i, j)], "element", tirx.BufferStore(target, value, [i, j]))
    body = _realize(block, loops)
    for loop, extent in zip(reversed(loops), reversed(extents), strict=True):
        body = tirx.For(loop, 0, extent, tirx.ForKind.SERIAL, body, None, {})
    return body


def _realize(block: Any, values: Sequence[Any]) -> Any:
    return SBlockRealize(list(values), tirx.const(True, "bool"), block)


def _region(buffer: Buffer, ranges: Sequence[Any]) -> Any:
    return tirx.BufferRegion(buffer, list(ranges))


def _point(buffer: Buffer, *indices: Any) -> Any:
    return _region(buffer, [tvm.ir.Range.from_min_extent(index, 1) for index in indices])


def _sizes(depth: int) -> tuple[int, int, int]:
    return FRAGMENT, FRAGMENT, depth


def _row(buffer: Buffer) -> Any:
    return buffer.strides[0]


def _address(buffer: Buffer, access: str) -> Any:
    return buffer.access_ptr(access, ptr_type=str(buffer.dtype))


def _index(buffer: Buffer) -> Any:
    """Which of its matrix's fragments a buffer is, counted along rows."""
    rows, columns = (int(size) for size in buffer.shape)
    start, row = buffer.elem_offset, _row(buffer)
    return start // row // rows * (row // columns) + start % row // columns


def _call(name: str, *arguments: Any) -> Any:
    return tirx.call_intrin("void", f"tirx.tvm_{name}", *arguments)
