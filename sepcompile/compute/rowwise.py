"""Activations along an axis, as a kernel of their own: softmax, log_softmax, sparsemax, glu.

The image (H, W, C) is seen as [outer][n][inner] around the axis. Vectors run along ``inner``; when the axis is the
last one, ``inner`` is 1 and vectors run along the axis itself. One task is one ``outer`` row, or one vector of
``inner`` in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from sepcompile.compute import mathfn as m
from sepcompile.compute.kernel import Builder, KernelIR
from sepcompile.compute.mathfn import f32
from sepcompile.compute.views import View, clamp

Expr = Any
Tensor = Any


@dataclass(frozen=True)
class Rows:
    """The geometry of a row-wise kernel: ``kind`` along an axis of ``extent`` between ``outer`` and ``inner``."""

    kind: str
    outer: int
    extent: int
    inner: int
    lanes: int
    out_dtype: str

    @staticmethod
    def of(kind: str, shape: tuple[int, int, int], axis: int, float_lanes: int, out_dtype: str) -> Rows:
        """For an image of ``shape`` (H, W, C) and an NHWC ``axis`` (1, 2 or 3)."""
        outer, extent, inner = math.prod(shape[: axis - 1]), shape[axis - 1], math.prod(shape[axis:])
        width = (extent // 2 if kind == "glu" else extent) if inner == 1 else inner
        lanes = float_lanes
        while lanes > width:
            lanes //= 2
        return Rows(kind, outer, extent, inner, lanes, out_dtype)

    @property
    def out_extent(self) -> int:
        """Elements along the axis in the output."""
        return self.extent // 2 if self.kind == "glu" else self.extent

    @property
    def along(self) -> bool:
        """Whether vectors run along the axis."""
        return self.inner == 1

    @property
    def vectors(self) -> int:
        """Vectors that cover ``inner`` (or the output's axis, when they run along it)."""
        return -(-(self.out_extent if self.along else self.inner) // self.lanes)

    @property
    def tasks(self) -> int:
        """Independent tasks."""
        return self.outer if self.along else self.outer * self.vectors

    @property
    def elements(self) -> int:
        """Elements of the output image."""
        return self.outer * self.out_extent * self.inner


def rowwise_kernel(rows: Rows, source: str, target: str) -> KernelIR:
    """The kernel of ``rows.kind``; its output stage is ``O`` and every other stage serves one task."""
    builder = Builder()
    x = builder.operand(source, (rows.outer * rows.extent * rows.inner,))
    body = (_Along if rows.along else _Across)(rows, x, builder)
    output = {"softmax": _softmax, "log_softmax": _log_softmax, "sparsemax": _sparsemax, "glu": _glu}[rows.kind](body)
    return builder.finish(output, target, body.views())


class _Across:
    """Vectors across rows: stages over (outer, vector, [n], lane); every lane is a row of its own."""

    def __init__(self, rows: Rows, x: Tensor, builder: Builder) -> None:
        self.rows, self.x, self.builder = rows, x, builder
        self.reduced = (rows.outer, rows.vectors, rows.lanes)

    def at(self, o: Expr, b: Expr, n: Expr, lane: Expr) -> Expr:
        """Input element n of the row of (o, b, lane)."""
        r = self.rows
        return self.x[(o * r.extent + n) * r.inner + clamp(b, r.lanes, r.inner) + lane]

    def reduce(self, name: str, over: Callable[[Expr, Expr, Expr, Expr], Expr], how: Any) -> Callable[..., Expr]:
        n = te.reduce_axis((0, self.rows.extent), f"{name}_n")
        stage = self.builder.stage(name, self.reduced, lambda o, b, v: how(over(o, b, n, v), [n]))
        return lambda o, b, n, v: stage[o, b, v]

    def each(self, name: str, value: Callable[[Expr, Expr, Expr, Expr], Expr]) -> Callable[..., Expr]:
        """A stage with one value per input element."""
        r = self.rows
        shape = (r.outer, r.vectors, r.extent, r.lanes)
        stage = self.builder.stage(name, shape, lambda o, b, n, v: value(o, b, n, v))
        return lambda o, b, n, v: stage[o, b, n, v]

    def output(self, value: Callable[[Expr, Expr, Expr, Expr], Expr]) -> Tensor:
        r = self.rows
        shape = (r.outer, r.vectors, r.out_extent, r.lanes)
        return te.compute(shape, lambda o, b, n, v: value(o, b, n, v).astype(r.out_dtype), "O")

    def views(self) -> dict[str, View]:
        r = self.rows

        def store(index: Sequence[Expr]) -> Expr:
            o, b, n, v = index
            return (o * r.out_extent + n) * r.inner + clamp(b, r.lanes, r.inner) + v

        return {"O": View(r.elements, store, store)}


class _Along:
    """Vectors along the row: stages over (outer, vector, lane); a reduction folds vectors, then lanes and the rest."""

    def __init__(self, rows: Rows, x: Tensor, builder: Builder) -> None:
        self.rows, self.x, self.builder = rows, x, builder

    def start(self, b: Expr) -> Expr:
        return clamp(b, self.rows.lanes, self.rows.out_extent)

    def at(self, o: Expr, b: Expr, n: Expr, lane: Expr) -> Expr:
        """Input element n of row o; b and lane only serve to look like ``_Across``."""
        return self.x[o * self.rows.extent + n]

    def reduce(self, name: str, over: Callable[[Expr, Expr, Expr, Expr], Expr], how: Any) -> Callable[..., Expr]:
        r = self.rows
        whole, tail = r.extent // r.lanes, r.extent % r.lanes
        k, v = te.reduce_axis((0, whole), f"{name}_k"), te.reduce_axis((0, r.lanes), f"{name}_v")
        make = self.builder.stage
        vector = make(
            f"{name}_vectors", (r.outer, r.lanes), lambda o, lane: how(over(o, k, k * r.lanes + lane, lane), [k])
        )
        folded = make(f"{name}_lanes", (r.outer,), lambda o: how(vector[o, v], [v]))
        if not tail:
            return lambda o, b, n, v: folded[o]
        t = te.reduce_axis((0, tail), f"{name}_t")
        rest = make(f"{name}_tail", (r.outer,), lambda o: how(over(o, 0, whole * r.lanes + t, 0), [t]))
        join = tirx.max if how is te.max else lambda a, b: a + b
        stage = make(name, (r.outer,), lambda o: join(folded[o], rest[o]))
        return lambda o, b, n, v: stage[o]

    def each(self, name: str, value: Callable[[Expr, Expr, Expr, Expr], Expr]) -> Callable[..., Expr]:
        r = self.rows
        shape = (r.outer, r.vectors, r.lanes)
        # Computed by vector, then copied to where it is read by element: a sum must not be read back by another view.
        computed = self.builder.stage(f"{name}_by_vector", shape, lambda o, b, v: value(o, b, self.start(b) + v, v))
        stage = self.builder.stage(name, shape, lambda *i: computed(*i))
        return lambda o, b, n, v: stage[o, tirx.floordiv(n, r.lanes), tirx.floormod(n, r.lanes)]

    def output(self, value: Callable[[Expr, Expr, Expr, Expr], Expr]) -> Tensor:
        r = self.rows
        shape = (r.outer, r.vectors, r.lanes)
        return te.compute(shape, lambda o, b, v: value(o, b, self.start(b) + v, v).astype(r.out_dtype), "O")

    def views(self) -> dict[str, View]:
        r = self.rows

        def in_row(index: Sequence[Expr]) -> Expr:
            return self.start(index[-2]) + index[-1]

        def number(index: Sequence[Expr]) -> Expr:
            return index[-2] * r.lanes + index[-1]

        def store(index: Sequence[Expr]) -> Expr:
            return index[0] * r.out_extent + in_row(index)

        # A row's values are stored by vectors that overlap at the end, and read back by element number.
        row = View(r.extent, in_row, number)
        return {"O": View(r.elements, store, store)} | dict.fromkeys(("E", "R", "C"), row)


_Body = _Across | _Along


def _exponentials(body: _Body) -> tuple[Callable[..., Expr], Callable[..., Expr], Callable[..., Expr]]:
    top = body.reduce("M", body.at, te.max)
    e = body.each("E", lambda *i: m.exp(body.at(*i) - top(*i)))
    return top, e, body.reduce("S", e, te.sum)


def _softmax(body: _Body) -> Tensor:
    _, e, total = _exponentials(body)
    return body.output(lambda *i: e(*i) / total(*i))


def _log_softmax(body: _Body) -> Tensor:
    top, _, total = _exponentials(body)
    return body.output(lambda *i: (body.at(*i) - top(*i)) - m.log(total(*i)))


def _glu(body: _Body) -> Tensor:
    half = body.rows.out_extent
    return body.output(lambda o, b, n, v: body.at(o, b, n, v) * m.sigmoid(body.at(o, b, n + half, v)))


def _sparsemax(body: _Body) -> Tensor:
    """Keras's sparsemax without sorting: an element's rank and cumulative sum are counts over the elements before it.

    Elements are ordered by value, equal ones by position. Quadratic in the axis, and exact in which elements count.
    """
    extent = body.rows.extent

    def before(o: Expr, b: Expr, n: Expr, j: Expr, v: Expr) -> Expr:
        other, mine = body.at(o, b, j, v), body.at(o, b, n, v)
        return tirx.any(other > mine, tirx.all(other == mine, j <= n))

    def count(name: str, value: Callable[[Expr], Expr]) -> Callable[..., Expr]:
        j = te.reduce_axis((0, extent), f"{name}_j")

        def total(o: Expr, b: Expr, n: Expr, v: Expr) -> Expr:
            return te.sum(tirx.Select(before(o, b, n, j, v), value(body.at(o, b, j, v)), f32(0.0)), [j])

        return body.each(name, total)

    rank, sums = count("R", lambda _: f32(1.0)), count("C", lambda z: z)

    def supported(value: Callable[..., Expr]) -> Callable[..., Expr]:
        def term(*i: Expr) -> Expr:
            margin = body.at(*i) - (sums(*i) - f32(1.0)) / rank(*i)
            return tirx.Select(margin > f32(0.0), value(*i), f32(0.0))

        return term

    size = body.reduce("K", supported(lambda *i: f32(1.0)), te.sum)
    total = body.reduce("T", supported(sums), te.sum)
    return body.output(lambda *i: tirx.max(f32(0.0), body.at(*i) - (total(*i) - f32(1.0)) / size(*i)))
