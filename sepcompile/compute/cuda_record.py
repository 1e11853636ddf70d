"""The schedule record of CUDA kernels: every knob, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from sepcompile.compute.form import Form
from sepcompile.errors import ScheduleError

SPLIT_DEPTH = 32
"""Channels between two barriers of a split layer's second kernel; its intermediate is padded to them."""


@dataclass(frozen=True)
class CudaSchedule:
    """How one layer is computed on a GPU.

    Output pixels are tiled by ``tile_rows`` x ``tile_columns``; rows are counted through the whole batch, so that only
    its last tile can be partly empty. A thread of the depthwise stage computes ``window`` neighbouring columns of
    ``lanes`` channels from one register window of the input.

    tile_rows, tile_columns: output pixels of one block.
    threads_x, threads_y: threads of one block; x runs along channels and filters, y along pixels.
    lanes: channels that a thread loads at once.
    window: neighbouring output columns of a thread.
    taps: kernel columns that share one register window; the others follow in a loop.
    tile_filters: filters of one block (a separable layer).
    tile_channels: channels between two barriers of a fused kernel, or of a block of a depthwise kernel.
    split: depthwise and pointwise as two kernels with the whole intermediate between them.
    tensor: matrix product on tensor cores: operands in the layer's 16-bit type, or float32 rounded to TF32 where the
        form's precision allows it; float32 sums either way.
    stages: 2 copies the next tile of operands that come from memory while the last one is multiplied (tensor cores).
    tile_pixels_b, threads_x_b, threads_y_b: pixels and threads of a block of a split layer's second kernel.

    On tensor cores the threads of a product are warps: 32 along x, and their number along y.
    """

    tile_rows: int
    tile_columns: int
    threads_x: int
    threads_y: int
    lanes: int
    window: int
    taps: int
    tile_filters: int = 1
    tile_channels: int = 1
    split: bool = False
    tensor: bool = False
    stages: int = 1
    tile_pixels_b: int = 1
    threads_x_b: int = 1
    threads_y_b: int = 1

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, object]) -> CudaSchedule:
        """Read ``to_json``'s object back; raises ``ScheduleError`` for a missing, unknown or ill-typed knob."""
        kinds = {f.name: {"int": int, "bool": bool}[str(f.type)] for f in fields(CudaSchedule)}
        if unknown := sorted(set(data) - set(kinds)):
            raise ScheduleError(f"schedule: unknown knob {unknown[0]!r}; known are {', '.join(kinds)}")
        for name, value in data.items():
            if type(value) is not kinds[name]:
                raise ScheduleError(f"schedule: {name}={value!r} must be {kinds[name].__name__}")
        try:
            return CudaSchedule(**data)  # type: ignore[arg-type]
        except TypeError as error:
            raise ScheduleError(f"schedule: {error}") from error


def padded_channels(form: Form, record: CudaSchedule) -> int:
    """Depthwise channels rounded up to whole tiles."""
    quantum = max(record.tile_channels, SPLIT_DEPTH) if record.split else record.tile_channels
    return _round_up(form.depthwise_channels, quantum)


def padded_filters(form: Form, record: CudaSchedule) -> int:
    """Filters rounded up to whole tiles."""
    return _round_up(form.out_channels, record.tile_filters)


def between_dtype(form: Form, record: CudaSchedule) -> str:
    """What the depthwise result and the pointwise weights are stored in; TF32 is rounded to as it is multiplied."""
    return form.in_dtype if record.tensor else "float32"


def product_depth(form: Form, record: CudaSchedule) -> int:
    """Channels between two barriers of a matrix product. Two tiles of TF32 operands need them halved."""
    if not record.split:
        return record.tile_channels
    return SPLIT_DEPTH // 2 if record.tensor and form.in_dtype == "float32" else SPLIT_DEPTH


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
