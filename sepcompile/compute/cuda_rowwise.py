"""Activations along an axis on a GPU: one thread computes one row of the image's [outer][extent][inner] view.

Nothing is kept between a row's passes: exponentials and ranks are computed again where they are needed, which costs
arithmetic but no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from sepcompile.compute import mathfn as m
from sepcompile.compute.cuda_tile import ANY_LENGTH, Grid, GuardedView
from sepcompile.compute.mathfn import f32
from sepcompile.ir.activations import KINDS

Expr = Any
THREADS = 128


@dataclass(frozen=True)
class CudaRows:
    """The geometry: ``kind`` along an axis of ``extent`` between ``outer`` rows and ``inner`` elements of an image.

    ``first_out``: the output is channels_first, (C, H, W) for an input (H, W, C) of ``shape``.
    """

    kind: str
    shape: tuple[int, int, int]
    axis: int
    first_out: bool
    out_dtype: str

    @property
    def extent(self) -> int:
        """Elements of a row."""
        return self.shape[self.axis - 1]

    @property
    def inner(self) -> int:
        """Elements between neighbours of a row."""
        return math.prod(self.shape[self.axis :])

    @property
    def out_extent(self) -> int:
        """Elements of a row of the output."""
        return self.extent // 2 if KINDS[self.kind].halves else self.extent

    @property
    def unit(self) -> int:
        """Rows of one image."""
        return math.prod(self.shape) // self.extent

    def store(self, row: Expr, n: Expr) -> Expr:
        """Flat output element ``n`` of ``row``."""
        if not self.first_out:
            return (row // self.inner * self.out_extent + n) * self.inner + row % self.inner
        sizes = list(self.shape)
        sizes[self.axis - 1] = self.out_extent
        image, rest = row // self.unit, row % self.unit
        index: list[Expr] = [0, 0, 0]
        for axis in reversed(range(3)):
            if axis == self.axis - 1:
                index[axis] = n
            else:
                index[axis], rest = rest % self.shape[axis], rest // self.shape[axis]
        h, w, c = index
        return ((image * sizes[2] + c) * sizes[0] + h) * sizes[1] + w


@dataclass(frozen=True)
class RowKernel:
    """A row-wise kernel before scheduling; ``stages`` in the order of their computation."""

    func: Any
    operands: dict[str, str]
    views: dict[str, GuardedView]
    grid: Grid
    stages: tuple[str, ...]


def rowwise_kernel(rows: CudaRows, source: str, target: str) -> RowKernel:
    """The kernel of ``rows.kind``."""
    body = _Body(rows)
    value = {"softmax": _softmax, "log_softmax": _log_softmax, "sparsemax": _sparsemax, "glu": _glu}[rows.kind](body)
    shape = (body.blocks, THREADS, rows.out_extent)
    output = te.compute(shape, lambda b, t, n: value(b, t, n).astype(rows.out_dtype), "O")

    def row(index: Any) -> Expr:
        return index[0] * THREADS + index[1]

    view = GuardedView(lambda i: rows.store(row(i), i[2]), lambda i: row(i) < body.rows)
    func = te.create_prim_func([body.rows, body.blocks, body.x, output])
    grid = Grid(rows.unit, THREADS, 1, 1)
    return RowKernel(func, {"p0": source, "O": target}, {"O": view}, grid, tuple(body.stages))


class _Body:
    """Declares the stages of a kernel, over (block, thread)."""

    def __init__(self, rows: CudaRows) -> None:
        self.geometry = rows
        self.rows, self.blocks = te.var("rows", "int32"), te.var("blocks", "int32")
        self.x = te.placeholder((ANY_LENGTH,), "float32", "p0")
        self.stages: list[str] = []

    def at(self, b: Expr, t: Expr, n: Expr) -> Expr:
        """Input element ``n`` of a thread's row; threads without a row read the last one."""
        g = self.geometry
        row = tirx.min(b * THREADS + t, self.rows - 1)
        return self.x[(row // g.inner * g.extent + n) * g.inner + row % g.inner]

    def reduce(self, name: str, value: Callable[[Expr, Expr, Expr], Expr], how: Any) -> Callable[..., Expr]:
        """A number per row: ``value`` folded over the axis."""
        n = te.reduce_axis((0, self.geometry.extent), f"{name}_n")
        stage = te.compute((self.blocks, THREADS), lambda b, t: how(value(b, t, n), [n]), name)
        self.stages.append(name)
        return lambda b, t, _=None: stage[b, t]

    def counted(self, name: str, value: Callable[[Expr], Expr]) -> Callable[[Expr, Expr, Expr], Expr]:
        """Per element, ``value`` summed over the elements that come before it when sorted downwards, and itself."""
        g = self.geometry
        j = te.reduce_axis((0, g.extent), f"{name}_j")

        def total(b: Expr, t: Expr, n: Expr) -> Expr:
            other, mine = self.at(b, t, j), self.at(b, t, n)
            before = tirx.any(other > mine, tirx.all(other == mine, j <= n))
            return te.sum(tirx.Select(before, value(other), f32(0.0)), [j])

        stage = te.compute((self.blocks, THREADS, g.extent), total, name)
        self.stages.append(name)
        return lambda b, t, n: stage[b, t, n]


def _softmax(body: _Body) -> Callable[..., Expr]:
    top = body.reduce("M", body.at, te.max)

    def e(*i: Expr) -> Expr:
        return m.exp(body.at(*i) - top(*i))

    total = body.reduce("S", e, te.sum)
    return lambda *i: e(*i) / total(*i)


def _log_softmax(body: _Body) -> Callable[..., Expr]:
    top = body.reduce("M", body.at, te.max)
    total = body.reduce("S", lambda *i: m.exp(body.at(*i) - top(*i)), te.sum)
    return lambda *i: (body.at(*i) - top(*i)) - m.log(total(*i))


def _glu(body: _Body) -> Callable[..., Expr]:
    half = body.geometry.out_extent
    return lambda b, t, n: body.at(b, t, n) * m.sigmoid(body.at(b, t, n + half))


def _sparsemax(body: _Body) -> Callable[..., Expr]:
    """As ``compute.rowwise`` does it: ranks and cumulative sums by counting, exact in which elements count."""

    def supported(prefix: str) -> tuple[Callable[..., Expr], Callable[..., Expr]]:
        rank, sums = body.counted(f"{prefix}R", lambda _: f32(1.0)), body.counted(f"{prefix}C", lambda z: z)

        def inside(*i: Expr) -> Expr:
            return body.at(*i) - (sums(*i) - f32(1.0)) / rank(*i) > f32(0.0)

        return inside, sums

    first, _ = supported("A")
    size = body.reduce("K", lambda *i: tirx.Select(first(*i), f32(1.0), f32(0.0)), te.sum)
    second, sums = supported("B")
    total = body.reduce("T", lambda *i: tirx.Select(second(*i), sums(*i), f32(0.0)), te.sum)
    return lambda *i: tirx.max(f32(0.0), body.at(*i) - (total(*i) - f32(1.0)) / size(*i))
