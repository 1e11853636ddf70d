"""Chooses a CUDA schedule from the model of a GPU, and says what a record must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sepcompile.compute.cuda_record import SPLIT_DEPTH, CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.errors import ScheduleError
from sepcompile.targets import Gpu

USUAL_BATCH = 32
"""What schedules are chosen for where the batch is dynamic."""
STATIC_SHARED_BYTES = 48 * 1024
_MOST_TAPS = 13  # kernel columns that share a register window
_MOST_UNROLLED = 40  # a kernel without divisors is unrolled whole up to here
_MOST_ACCUMULATORS = 64
_ACROSS = 16  # threads along the filters of a matrix product
_PAD = 4
# (pixels, filters, threads along pixels) of a block's matrix product.
_PRODUCTS = (
    (16, 32, 4), (16, 64, 4), (32, 32, 8), (32, 64, 8), (32, 128, 8), (64, 32, 16), (64, 64, 8), (64, 64, 16),
    (64, 128, 8), (64, 128, 16), (128, 64, 16), (128, 128, 16),
)  # fmt: skip


def choose(form: Form, gpu: Gpu, batch: int | None) -> CudaSchedule:
    """The heuristic's record for ``form``, always one that ``check_record`` accepts."""
    return next(iter(candidates(form)))


def candidates(form: Form) -> list[CudaSchedule]:
    """Records worth trying, each of which ``check_record`` accepts; a tuner times them all."""
    found = _depthwise_layers(form) if form.pointwise is None else [*_fused(form), *_split(form)]
    kept: list[CudaSchedule] = []
    for record in found:
        try:
            check_record(record, form)
        except ScheduleError:
            continue
        if record not in kept:
            kept.append(record)
    return kept


def check_record(record: CudaSchedule, form: Form) -> None:
    """Raises ``ScheduleError``, naming the knob, its value and what fits, unless ``record`` can be applied."""
    for name in ("tile_rows", "tile_columns", "threads_x", "threads_y", "lanes", "window", "taps", "tile_filters",
                 "tile_channels", "tile_pixels_b", "threads_y_b"):  # fmt: skip
        if getattr(record, name) < 1:
            raise ScheduleError(f"schedule: {name}={getattr(record, name)} must be at least 1")
    kw = form.depthwise.kernel_size[1]
    _divides("taps", record.taps, kw, "the kernel's columns")
    _divides("window", record.window, record.tile_columns, "tile_columns")
    _divides("lanes", record.lanes, most_lanes(form), "the channels that a thread can load at once")
    if record.threads_x * record.threads_y > 1024 or record.threads_x * record.threads_y_b > 1024:
        raise ScheduleError(f"schedule: threads_x={record.threads_x} makes a block of more than 1024 threads")
    if form.pointwise is None or record.split:
        _check_depthwise(record, form)
    if form.pointwise is not None:
        pixels = record.tile_pixels_b if record.split else record.tile_rows * record.tile_columns
        _check_product(record, form, pixels)


def most_lanes(form: Form) -> int:
    """Channels that one thread can load at once: neighbours in memory, 16 bytes at most."""
    if form.channels_first_in or form.depthwise.depth_multiplier > 1:
        return 1
    most = 8 if form.in_dtype == "float16" else 4
    return max(lanes for lanes in (8, 4, 2, 1) if lanes <= most and form.channels % lanes == 0)


def _divides(name: str, value: int, whole: int, what: str) -> None:
    if whole % value:
        raise ScheduleError(f"schedule: {name}={value} must divide {what}, {whole}")


def _threads(record: CudaSchedule, form: Form, rows: int) -> tuple[int, int]:
    """Threads along pixels and along channels in the depthwise stage."""
    return (record.threads_x, rows) if form.channels_first_in else (rows, record.threads_x)


def _check_depthwise(record: CudaSchedule, form: Form) -> None:
    along_pixels, along_channels = _threads(record, form, record.threads_y)
    pixels = record.tile_rows * record.tile_columns
    _divides("window", record.window * along_pixels, pixels, "the tile's pixels, times the threads along them,")
    _divides("lanes", record.lanes * along_channels, record.tile_channels, "tile_channels, times the threads along it,")


def _check_product(record: CudaSchedule, form: Form, pixels: int) -> None:
    rows = record.threads_y_b if record.split else record.threads_y
    depth = SPLIT_DEPTH if record.split else record.tile_channels
    if not record.split:
        _check_depthwise(record, form)
    if depth % 4:
        raise ScheduleError(f"schedule: tile_channels={depth} must be a multiple of 4")
    if SPLIT_DEPTH % record.tile_channels and record.tile_channels % SPLIT_DEPTH and record.split:
        raise ScheduleError(f"schedule: tile_channels={record.tile_channels} must divide {SPLIT_DEPTH}, or a multiple")
    _divides("threads_y", rows * min(4, max(1, pixels // rows)), pixels, "the tile's pixels, times those of a thread,")
    filters = min(4, max(1, record.tile_filters // record.threads_x))
    _divides("threads_x", record.threads_x * filters, record.tile_filters, "tile_filters, times those of a thread,")
    accumulators = pixels * record.tile_filters // (rows * record.threads_x)
    if accumulators > _MOST_ACCUMULATORS:
        raise ScheduleError(f"schedule: tile_filters={record.tile_filters} needs {accumulators} sums in a thread")
    for what, size in (("tile_pixels_b", pixels * depth), ("tile_filters", record.tile_filters * depth)):
        if record.split and size % (rows * record.threads_x * 4):
            raise ScheduleError(f"schedule: {what} does not fill the block's threads")
    if record.tile_filters * depth % (rows * record.threads_x * (4 if record.tile_filters % 4 == 0 else 1)):
        raise ScheduleError(f"schedule: tile_filters={record.tile_filters} does not fill the block's threads")
    shared = 4 * (pixels * (depth + _PAD) + depth * record.tile_filters)
    if shared > STATIC_SHARED_BYTES:
        raise ScheduleError(f"schedule: its tiles take {shared} bytes of shared memory; at most {STATIC_SHARED_BYTES}")


def window_taps(form: Form) -> int:
    """Kernel columns that share one register window: all, or a divisor of a long kernel."""
    kw = form.depthwise.kernel_size[1]
    best = kw if kw <= _MOST_TAPS else max(d for d in range(1, _MOST_TAPS + 1) if kw % d == 0)
    return kw if best == 1 and kw <= _MOST_UNROLLED else best


def _window_lanes(form: Form, window: int) -> int:
    """Lanes with which a register window takes at most about a third of the registers."""
    columns = (window - 1) * form.depthwise.strides[1] + window_taps(form)
    lanes = most_lanes(form)
    while lanes > 1 and columns * lanes > 80:
        lanes //= 2
    return lanes


def tile_shape(form: Form, pixels: int, window: int) -> tuple[int, int]:
    """Rows and columns of a tile of ``pixels``: little beyond the image's edge, little input read twice."""
    (kh, kw), (sh, sw), (dh, dw) = form.depthwise.kernel_size, form.depthwise.strides, form.depthwise.dilation_rate

    def cost(columns: int) -> float:
        rows = pixels // columns
        waste = -(-form.out_width // columns) * columns / form.out_width
        halo = (1 + (kw - 1) * dw / (columns * sw)) * (1 + (kh - 1) * dh / (rows * sh))
        return waste * (1 + 0.1 * min(halo, 4.0))

    widths = [c for c in range(window, pixels + 1, window) if pixels % c == 0]
    best = min(widths, key=cost)
    return pixels // best, best


def _fused(form: Form) -> Iterator[CudaSchedule]:
    taps = window_taps(form)
    for pixels, filters, rows in _PRODUCTS:
        if filters > max(32, 2 * form.out_channels):
            continue
        for window in (4, 2, 1):
            along, _ = _threads(CudaSchedule(1, 1, _ACROSS, rows, 1, 1, 1), form, rows)
            if along * window > pixels:
                continue
            lanes = _window_lanes(form, window)
            while lanes > 1 and not _fits(form, pixels, filters, rows, lanes):
                lanes //= 2
            depth = lanes * (rows if form.channels_first_in else _ACROSS)
            shape = tile_shape(form, pixels, window)
            yield CudaSchedule(*shape, _ACROSS, rows, lanes, window, taps, filters, depth)


def _fits(form: Form, pixels: int, filters: int, rows: int, lanes: int) -> bool:
    depth = lanes * (rows if form.channels_first_in else _ACROSS)
    return 4 * (pixels * (depth + _PAD) + depth * filters) <= STATIC_SHARED_BYTES


def _split(form: Form) -> Iterator[CudaSchedule]:
    for pixels, filters, rows in _PRODUCTS:
        if filters <= max(32, 2 * form.out_channels):
            for first in _depthwise_halves(form):
                yield replace(first, split=True, tile_filters=filters, tile_pixels_b=pixels, threads_y_b=rows)


def _depthwise_halves(form: Form) -> Iterator[CudaSchedule]:
    """The first half of a split layer has the threads of the second along x."""
    for record in _depthwise_layers(form):
        if record.threads_x == _ACROSS and record.window == min(4, record.window):
            yield record


def _depthwise_layers(form: Form) -> Iterator[CudaSchedule]:
    taps = window_taps(form)
    for across in (16, 8, 32):
        for rows in (8, 16, 4):
            for window in (4, 2, 1, 8):
                along, channels = _threads(CudaSchedule(1, 1, across, rows, 1, 1, 1), form, rows)
                shape, lanes = tile_shape(form, along * window, window), _window_lanes(form, window)
                yield CudaSchedule(*shape, across, rows, lanes, window, taps, 1, channels * lanes)
