"""Chooses a CUDA schedule from the model of a GPU, and says what a record must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from sepcompile.compute.cuda_record import SPLIT_DEPTH, CudaSchedule, padded_channels, product_depth
from sepcompile.compute.form import Form
from sepcompile.errors import ScheduleError
from sepcompile.targets import Gpu

USUAL_BATCH = 32
"""What schedules are chosen for where the batch is dynamic."""
STATIC_SHARED_BYTES = 48 * 1024
_MOST_TAPS = 13  # kernel columns that share a register window
_MOST_UNROLLED = 40  # a kernel without divisors is unrolled whole up to here
_MOST_ACCUMULATORS = 64
_PAD_BYTES = 16
TENSOR_CAPABILITY = 80  # from here on tensor cores multiply bfloat16 and TF32
_FRAGMENT, _WARP = 16, 32
RIGHT_PAD = 8  # elements more per row of a tile of weights, so that what one instruction reads lies in other banks
# Of the model, from measurements on an H200: threads that keep a multiprocessor busy, and in units of a thread's sums
# what it does besides them and what a second launch takes.
_BUSY_THREADS, _BUSY_TENSOR_THREADS, _OVERHEAD_SUMS, _SECOND_LAUNCH_SUMS = 1024, 512, 12.0, 20.0
_MOST_FUSED_TAPS = 13
_TENSOR_DEPTH = 32


@dataclass(frozen=True)
class Product:
    """The shape of a block's matrix product: pixels, filters, and threads (warps on tensor cores) along each."""

    pixels: int
    filters: int
    rows: int
    across: int


_PLAIN = (
    Product(64, 128, 8, 32), Product(64, 64, 8, 16), Product(32, 64, 8, 16), Product(64, 128, 4, 32),
    Product(128, 64, 8, 16), Product(32, 32, 8, 8), Product(16, 32, 4, 8), Product(32, 128, 8, 32),
)  # fmt: skip
_TENSOR = (
    Product(64, 128, 8, _WARP), Product(64, 64, 4, _WARP), Product(64, 128, 4, _WARP), Product(32, 64, 4, _WARP),
    Product(128, 64, 8, _WARP), Product(32, 128, 4, _WARP), Product(16, 64, 4, _WARP), Product(32, 32, 2, _WARP),
)  # fmt: skip
# Threads along channels, threads along pixels and window of a depthwise kernel.
_DEPTHWISE = ((8, 8, 4), (8, 4, 4), (8, 8, 8), (16, 8, 4), (16, 4, 2), (8, 16, 2), (16, 4, 1), (8, 4, 2))


def choose(form: Form, gpu: Gpu, batch: int | None) -> CudaSchedule:
    """The heuristic's record for ``form``, always one that ``check_record`` accepts.

    One kernel where one block covers all filters and the depthwise stage is short; else two, since every block along
    the filters would compute the depthwise result again. The product's shape is the one with the least modelled time.
    """
    pixels = (batch or USUAL_BATCH) * form.out_height * form.out_width
    found = candidates(form, gpu.capability)
    if form.pointwise is None:
        return min(found, key=lambda record: _depthwise_cost(record, form, gpu, pixels))
    halves = [r for r in found if r.split]
    whole = [r for r in found if not r.split and r.tile_filters >= form.out_channels]
    if form.taps > _MOST_FUSED_TAPS or not whole:
        usable = halves or found
    elif halves and _rounds(min(whole, key=lambda r: _product_cost(r, form, gpu, pixels)), form, gpu, pixels) <= 1:
        # A GPU that is not full anyway: smaller tiles of two kernels may finish sooner.
        usable = [*whole, *halves]
    else:
        usable = whole
    return min(usable, key=lambda record: _product_cost(record, form, gpu, pixels))


def cost(record: CudaSchedule, form: Form, gpu: Gpu, batch: int | None) -> float:
    """Modelled time of a record, in no particular unit: only records of one layer and batch can be compared."""
    pixels = (batch or USUAL_BATCH) * form.out_height * form.out_width
    return (_depthwise_cost if form.pointwise is None else _product_cost)(record, form, gpu, pixels)


def depthwise_records(form: Form) -> list[CudaSchedule]:
    """Records of the depthwise stage alone, or of the first of two kernels."""
    return list(_depthwise_layers(form))


def _rounds(record: CudaSchedule, form: Form, gpu: Gpu, pixels: int) -> float:
    """How many times a product's blocks fill the GPU; one at least."""
    product, _ = _product_of(record, form)
    blocks = -(-pixels // product.pixels) * -(-form.out_channels // product.filters)
    busy = _BUSY_TENSOR_THREADS if record.tensor else _BUSY_THREADS
    return max(1.0, blocks * product.rows * product.across / (gpu.multiprocessors * busy))


def _product_cost(record: CudaSchedule, form: Form, gpu: Gpu, pixels: int) -> float:
    """Relative time of a product: rounds of blocks, times the sums of a thread and what it does besides."""
    product, _ = _product_of(record, form)
    threads = product.rows * product.across
    sums = product.pixels * product.filters / threads
    besides = _SECOND_LAUNCH_SUMS if record.split else 4 * form.taps * product.pixels / threads
    return _rounds(record, form, gpu, pixels) * (sums + _OVERHEAD_SUMS) + besides


def _depthwise_cost(record: CudaSchedule, form: Form, gpu: Gpu, pixels: int) -> float:
    """Relative time of a depthwise layer: as above, with the loads of a window against the sums made from it."""
    channels = -(-form.depthwise_channels // record.tile_channels) * record.tile_channels
    threads = -(-pixels // record.window) * channels // record.lanes
    rounds = max(1.0, threads / (gpu.multiprocessors * _BUSY_THREADS))
    stride, (_, kw) = form.depthwise.strides[1], form.depthwise.kernel_size
    loads = ((record.window - 1) * stride + kw) * form.depthwise.kernel_size[0] * record.lanes
    return rounds * (loads + record.window * record.lanes * (1 + 0.5 * form.taps))


def candidates(form: Form, capability: int = TENSOR_CAPABILITY) -> list[CudaSchedule]:
    """Records worth trying on a GPU of ``capability``, each of which ``check_record`` accepts; a tuner times them."""
    found = _depthwise_layers(form) if form.pointwise is None else _separable_layers(form, capability)
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
    for name, value in record.to_json().items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ScheduleError(f"schedule: {name}={value} must be at least 1")
    _divides("taps", record.taps, form.depthwise.kernel_size[1], "the kernel's columns")
    _divides("window", record.window, record.tile_columns, "tile_columns")
    _divides("lanes", record.lanes, most_lanes(form), "the channels that a thread can load at once")
    for x, y in ((record.threads_x, record.threads_y), (record.threads_x_b, record.threads_y_b)):
        if x * y > 1024:
            raise ScheduleError(f"schedule: {x} x {y} threads in a block; at most 1024")
    if record.tensor and not may_use_tensor_cores(form):
        raise ScheduleError("schedule: tensor=True needs a separable layer in float16 or bfloat16, or precision='tf32'")
    if record.stages > 2 or (record.stages == 2 and not record.tensor):
        raise ScheduleError(f"schedule: stages={record.stages}: 1 fits, and 2 with tensor=True")
    pixels = record.tile_rows * record.tile_columns
    if form.pointwise is None or record.split or not record.tensor:
        along_pixels, along_channels = _threads(form, record.threads_y, record.threads_x)
    else:
        along_channels = record.tile_channels // record.lanes
        _divides("tile_channels", along_channels, _WARP, "the threads of a warp, per lanes,")
        along_pixels = record.threads_y * (_WARP // along_channels)
    _divides("window", record.window * along_pixels, pixels, "the tile's pixels, times the threads along them,")
    _divides("lanes", record.lanes * along_channels, record.tile_channels, "tile_channels, times the threads along it,")
    if form.pointwise is not None:
        _check_product(record, form)


def may_use_tensor_cores(form: Form, capability: int = TENSOR_CAPABILITY) -> bool:
    """Whether a GPU's tensor cores multiply the layer's operands: Turing's only float16, later ones the others too."""
    wide = form.in_dtype == "bfloat16" or form.precision == "tf32"
    return form.pointwise is not None and (form.in_dtype == "float16" or (wide and capability >= TENSOR_CAPABILITY))


def _check_product(record: CudaSchedule, form: Form) -> None:
    product, depth = _product_of(record, form)
    if record.stages == 2 and padded_channels(form, record) < 2 * depth:
        raise ScheduleError(f"schedule: stages=2 needs more channels than one tile of {depth}")
    if record.split and SPLIT_DEPTH % record.tile_channels and record.tile_channels % SPLIT_DEPTH:
        raise ScheduleError(f"schedule: tile_channels={record.tile_channels} must divide {SPLIT_DEPTH}, or a multiple")
    (_check_tensor if record.tensor else _check_plain)(product, depth)
    shared = _shared_bytes(record, form)
    if shared > STATIC_SHARED_BYTES:
        raise ScheduleError(f"schedule: its tiles take {shared} bytes of shared memory; at most {STATIC_SHARED_BYTES}")
    wide = 16 // item_bytes(form)
    lanes = wide if record.tensor else product.filters // product.across
    _divides("tile_filters", product.rows * product.across * lanes, product.filters * depth, "its weights' tile")
    if record.split:
        lanes = wide if record.tensor else 4
        _divides("tile_pixels_b", product.rows * product.across * lanes, product.pixels * depth, "its left tile")


def _product_of(record: CudaSchedule, form: Form) -> tuple[Product, int]:
    """The product's shape, and the channels between two of its barriers."""
    depth = product_depth(form, record)
    if record.split:
        across = _WARP if record.tensor else record.threads_x_b
        return Product(record.tile_pixels_b, record.tile_filters, record.threads_y_b, across), depth
    across = _WARP if record.tensor else record.threads_x
    return Product(record.tile_rows * record.tile_columns, record.tile_filters, record.threads_y, across), depth


def _check_plain(product: Product, depth: int) -> None:
    _divides("tile_channels", 4, depth, "the channels between two barriers")
    _divides("threads_y", product.rows, product.pixels, "the tile's pixels")
    _divides("threads_x", product.across, product.filters, "tile_filters")
    filters = product.filters // product.across
    if filters not in (1, 2, 4):
        raise ScheduleError(f"schedule: tile_filters={product.filters} gives a thread {filters}; 1, 2 or 4 fit")
    if product.pixels // product.rows * filters > _MOST_ACCUMULATORS:
        raise ScheduleError(f"schedule: tile_filters={product.filters} needs too many sums in a thread")


def _check_tensor(product: Product, depth: int) -> None:
    along, across = warp_grid(product.pixels, product.filters, product.rows)
    _divides("tile_channels", _FRAGMENT, depth, "the channels between two barriers")
    _divides("threads_y", along * _FRAGMENT, product.pixels, "the tile's pixels, in fragments of its warps,")
    _divides("threads_y", across * _FRAGMENT, product.filters, "tile_filters, in fragments of its warps,")
    width = min(8, product.filters // 8)
    _divides("threads_y", product.rows * _WARP * width, product.pixels * product.filters, "the tile's results")
    fragments = product.pixels * product.filters // (product.rows * _FRAGMENT * _FRAGMENT)
    if fragments > 8:
        raise ScheduleError(f"schedule: tile_filters={product.filters} gives a warp {fragments} fragments; at most 8")


def warp_grid(pixels: int, filters: int, warps: int) -> tuple[int, int]:
    """How a block's warps divide its pixels and filters."""
    along = max(1, min(warps, pixels // 32))
    while warps // along * _FRAGMENT > filters and along * 2 <= pixels // _FRAGMENT:
        along *= 2
    return along, warps // along


def _shared_bytes(record: CudaSchedule, form: Form) -> int:
    """Shared memory of a block: its operands' tiles; on tensor cores the sums take their place afterwards."""
    product, depth = _product_of(record, form)
    if not record.tensor:
        return 4 * (product.pixels * depth + depth * product.filters) + _PAD_BYTES * product.pixels
    item = item_bytes(form)
    left = product.pixels * (item * depth + _PAD_BYTES)
    right = depth * item * (product.filters + RIGHT_PAD)
    operands = (record.stages if record.split else 1) * left + record.stages * right
    return max(operands, 4 * product.pixels * product.filters + _PAD_BYTES * product.pixels)


def item_bytes(form: Form) -> int:
    """Bytes of one element of the layer's input."""
    return 4 if form.in_dtype == "float32" else 2


def most_lanes(form: Form) -> int:
    """Channels that one thread can load at once: neighbours in memory, 16 bytes at most."""
    if form.channels_first_in or form.depthwise.depth_multiplier > 1:
        return 1
    most = 16 // item_bytes(form)
    return max(lanes for lanes in (8, 4, 2, 1) if lanes <= most and form.channels % lanes == 0)


def _divides(name: str, value: int, whole: int, what: str) -> None:
    if whole % value:
        raise ScheduleError(f"schedule: {name}: {value} must divide {what} {whole}")


def _threads(form: Form, rows: int, across: int) -> tuple[int, int]:
    """Threads along pixels and along channels in the depthwise stage."""
    return (across, rows) if form.channels_first_in else (rows, across)


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


def _separable_layers(form: Form, capability: int) -> Iterator[CudaSchedule]:
    tensor = may_use_tensor_cores(form, capability)
    products = [p for p in (_TENSOR if tensor else _PLAIN) if p.filters <= max(32, 2 * form.out_channels)]
    for product in products:
        for record in islice((_tensor_fused if tensor else _plain_fused)(form, product), 1):
            yield from _staged(record)
    for product in products:
        for first in islice(_depthwise_layers(form), 1):
            yield from _staged(replace(
                first,
                split=True,
                tensor=tensor,
                tile_filters=product.filters,
                tile_pixels_b=product.pixels,
                threads_x_b=product.across,
                threads_y_b=product.rows,
            ))  # fmt: skip


def _staged(record: CudaSchedule) -> Iterator[CudaSchedule]:
    """On tensor cores, the record with its next tile under way first: of equal cost, the chooser takes the first."""
    if record.tensor:
        yield replace(record, stages=2)
    yield record


def _plain_fused(form: Form, product: Product) -> Iterator[CudaSchedule]:
    for window in (4, 2, 1):
        along, channels = _threads(form, product.rows, product.across)
        if along * window > product.pixels:
            continue
        lanes = _window_lanes(form, window)
        shape, taps = tile_shape(form, product.pixels, window), window_taps(form)
        record = CudaSchedule(
            *shape, product.across, product.rows, lanes, window, taps, product.filters, lanes * channels
        )
        while record.lanes > 1 and _shared_bytes(record, form) > STATIC_SHARED_BYTES:
            record = replace(record, lanes=record.lanes // 2, tile_channels=record.tile_channels // 2)
        if record.lanes == 1 < most_lanes(form):
            continue  # a tile so large that its channels would be loaded one by one
        yield record


def _tensor_fused(form: Form, product: Product) -> Iterator[CudaSchedule]:
    for window in (4, 2, 1):
        lanes = _window_lanes(form, window)
        along = product.rows * (_WARP * lanes // _TENSOR_DEPTH)
        if along * window > product.pixels:
            continue
        shape, taps = tile_shape(form, product.pixels, window), window_taps(form)
        yield CudaSchedule(
            *shape, _WARP, product.rows, lanes, window, taps, product.filters, _TENSOR_DEPTH, tensor=True
        )


def _depthwise_layers(form: Form) -> Iterator[CudaSchedule]:
    taps = window_taps(form)
    for across, rows, window in _DEPTHWISE:
        along, channels = _threads(form, rows, across)
        shape, lanes = tile_shape(form, along * window, window), _window_lanes(form, window)
        yield CudaSchedule(*shape, across, rows, lanes, window, taps, 1, channels * lanes)
