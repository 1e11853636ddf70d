"""What a channels_first layer costs transposed and planar, in cycles of a core: good enough to choose between the two.

Each stage is bound by the slowest of multiply-adds, loads and latency. The constants were fitted on Zen 5 with AVX-512,
over 3x3 to 7x7 kernels and 1-D kernels of 7 to 33, and are rounded.
"""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.layer import Layer
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.compute.record import Schedule
from sepcompile.targets import Machine

FMA_LATENCY = 4
TAP_CYCLES = 0.55
"""Of a depthwise multiply-add of two ports, with its share of loading the input."""
VECTOR_CYCLES = 2.5
"""Of a depthwise vector of channels besides: its bounds, its store."""
STAGED_CYCLES = 1.6
"""Of copying one vector of a planar row to scratch; 2 where a stride takes it apart."""
RELAYOUT_CYCLES = 0.44
"""Of transposing one element: as many bytes wait for L2 with short vectors as with long ones. Half of it within L1."""
STREAM_CYCLES = 2.3
"""Of a vector that comes from L2 in the pointwise loop."""
SUM_CYCLES = 0.8
"""Of each sum of a pointwise register tile, once: clearing it, its epilogue and its store."""
SPILLED_CYCLES = 0.15
"""Of each element of an intermediate image that does not stay in L2."""
WEIGHT_CYCLES = 0.1
"""Of each byte of pointwise weights that do not stay in L2, each time they are read."""
STEP_CYCLES = 300.0
"""Of one more kernel: a call, and the start of its loops."""


def transposed_cycles(record: Schedule, form: Form, machine: Machine) -> float:
    """The transposing plan's cycles."""
    layer = Layer(form, record)
    moved = form.height * form.width * form.channels + form.out_height * form.out_width * form.out_channels
    relayout = RELAYOUT_CYCLES * (0.5 if 2 * 4 * moved <= machine.l1_bytes else 1.0)
    tap = TAP_CYCLES * (1.5 if form.depthwise.strides[1] > 1 else 1.0)
    pixels = layer.blocks * layer.row_tiles * record.tile_rows * layer.column_tiles * record.tile_columns
    depthwise = pixels * layer.channel_blocks * (form.taps * tap * _ports(machine) + VECTOR_CYCLES)
    pointwise = 0.0
    if form.pointwise is not None:
        streamed = form.channels * form.out_channels * 4 > machine.l1_bytes // 2
        cycles = tile_cycles(machine, form.channels, record.tile_pixels, record.tile_vectors, streamed=streamed)
        pointwise = layer.blocks * layer.panels * layer.pixel_tiles * cycles
        pointwise += _weight_cycles(form, machine, layer.blocks * (1 if record.order == "panel" else layer.pixel_tiles))
    steps = 4 if record.split else 3
    balanced = (depthwise + pointwise) * (1.0 if record.split else _balance(layer.blocks, machine))
    return balanced + relayout * moved + steps * STEP_CYCLES


def planar_cycles(record: PlanarSchedule, form: Form, machine: Machine) -> float:
    """The planar plan's cycles."""
    layer = PlanarLayer(form, record)
    depthwise = layer.blocks * form.channels * _channel_cycles(layer, machine)
    if form.pointwise is None:
        return depthwise * _balance(layer.blocks * form.channels, machine) + STEP_CYCLES
    panel_bytes = form.channels * record.tile_vectors * record.lanes * 4
    streamed = panel_bytes > machine.l1_bytes or record.order == "panel"
    cycles = tile_cycles(machine, form.channels, record.tile_filters, record.tile_vectors, streamed=streamed)
    pointwise = layer.blocks * layer.panels * layer.pixel_tiles * cycles
    pointwise += _weight_cycles(form, machine, layer.blocks * (1 if record.order == "panel" else layer.pixel_tiles))
    elements = layer.scratch_view.size
    spilled = SPILLED_CYCLES * elements if elements * 4 > machine.l2_bytes // 2 else 0.0
    if record.split:
        tiles = layer.panels if record.order == "panel" else layer.pixel_tiles
        return depthwise + pointwise * _balance(tiles, machine) + spilled + 2 * STEP_CYCLES
    return (depthwise + pointwise + layer.blocks * spilled) * _balance(layer.blocks, machine) + STEP_CYCLES


def tile_cycles(machine: Machine, channels: int, broadcasts: int, vectors: int, *, streamed: bool) -> float:
    """Cycles of a pointwise register tile of ``broadcasts`` x ``vectors`` sums; ``streamed``: vectors come from L2."""
    fma = broadcasts * vectors / machine.fma_ports
    # SSE has no load that broadcasts: a load and a shuffle.
    loads = (broadcasts * (2 if machine.vector_bits == 128 else 1) + vectors) / machine.load_ports
    stream = STREAM_CYCLES * vectors if streamed else 0.0
    return channels * (max(fma, loads, stream, FMA_LATENCY + 1) + 0.2) + SUM_CYCLES * broadcasts * vectors


def _channel_cycles(layer: PlanarLayer, machine: Machine) -> float:
    """Cycles of the depthwise stage for one channel of one block."""
    record, stage = layer.record, layer.form.depthwise
    (kh, kw), stride = stage.kernel_size, stage.strides
    vectors = layer.row_tiles * record.tile_rows * layer.column_tiles * record.tile_columns
    # Rows of one register tile share what they load; a load that crosses a cache line counts twice.
    rows = (record.tile_rows - 1) * stride[0] + kh if record.unroll_rows else record.tile_rows * kh
    crossing = 1.0 + record.depthwise_lanes / 16
    loads = kw * rows / record.tile_rows * crossing / machine.load_ports
    staged = layer.staged_rows * layer.phases * layer.staged_shape[-2]
    copying = staged * (STAGED_CYCLES if stride[1] == 1 else 2.0)
    return vectors * (max(layer.form.taps * TAP_CYCLES * _ports(machine), loads) + 0.5) + copying


def _weight_cycles(form: Form, machine: Machine, reads: int) -> float:
    """Cycles of fetching the pointwise weights ``reads`` times from beyond L2."""
    nbytes = form.channels * form.out_channels * 4
    return WEIGHT_CYCLES * nbytes * reads if nbytes > machine.l2_bytes // 2 else 0.0


def _ports(machine: Machine) -> float:
    """What a multiply-add costs over that of a machine with two ports for it."""
    return 2 / machine.fma_ports


def _balance(tasks: int, machine: Machine) -> float:
    """A weight for threads that wait while others have one task more."""
    return 0.5 + 0.5 * -(-tasks // machine.cores) * machine.cores / tasks
