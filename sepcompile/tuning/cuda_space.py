"""The space of CUDA records: how a block is laid out, what it multiplies, and whether the next tile is under way.

The knobs of a stage hang together (tile, threads, register window), so an axis holds whole layouts: those that the
heuristic knows, which ``schedule.cuda`` filters and costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.errors import TuningError
from sepcompile.schedule import cuda
from sepcompile.targets import Target
from sepcompile.tuning.space import Axis, Space

_FIRST = ("tile_rows", "tile_columns", "threads_x", "threads_y", "lanes", "window", "taps", "tile_channels")
_PRODUCT = ("tile_filters", "split", "tensor", "tile_pixels_b", "threads_x_b", "threads_y_b")


def build(form: Form, target: Target, batch: int | None) -> Space[CudaSchedule]:
    """The space of a layer for a GPU. Records depend on the batch; None stands for the usual one."""
    if target.gpu is None:
        raise TuningError(f"target={target.name!r} is no GPU; its records are of another space")
    gpu, default = target.gpu, cuda.choose(form, target.gpu, batch)
    known = [default, *cuda.candidates(form, gpu.capability)]
    axes = [
        _axis("layout", [*known, *cuda.depthwise_records(form)], _FIRST),
        _axis("product", known, _PRODUCT),
        _axis("stages", known, ("stages",)),
    ]

    def check(record: CudaSchedule) -> None:
        cuda.check_record(record, form)

    kept = [axis for axis in axes if len(axis.choices) > 1]
    return Space(default, kept, CudaSchedule.from_json, check, lambda record: cuda.cost(record, form, gpu, batch))


def _axis(name: str, records: Iterable[CudaSchedule], knobs: tuple[str, ...]) -> Axis:
    """The distinct values of some knobs together, the heuristic's first."""
    rows: list[Mapping[str, object]] = [record.to_json() for record in records]
    return Axis.of(name, [{knob: row[knob] for knob in knobs} for row in rows])
