"""What a CPU record should cost, from the machine model alone: good enough to order candidates, never to choose one.

Cycles of one core per image, the sum of the two stages. Each stage is bound by the slowest of multiply-adds, loads and
latency; what leaves a cache costs extra. The constants are orders of magnitude of current cores, not fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sepcompile.compute.form import Form
from sepcompile.compute.layer import Layer
from sepcompile.compute.record import Schedule
from sepcompile.targets import Machine

FMA_LATENCY = 4
LOADS_PER_CYCLE = 2
TILE_START = 12.0
"""Cycles to enter a register tile: addresses, clearing, and the epilogue's first store."""
BOUND_TEST = 0.35
"""Cycles of a tap whose bounds are tested, for each output of its tile, where they cannot be hoisted."""
L2_BYTES_PER_CYCLE = 32.0
L3_BYTES_PER_CYCLE = 10.0


@dataclass(frozen=True)
class Work:
    """What a record makes of a form: how much is computed, and in how many pieces."""

    record: Schedule
    form: Form

    @cached_property
    def layer(self) -> Layer:
        """The geometry."""
        return Layer(self.form, self.record)

    @property
    def pointwise_waste(self) -> float:
        """Pointwise multiply-adds over those needed: tiles and panels overlap."""
        layer, record = self.layer, self.record
        pixels = layer.blocks * layer.pixel_tiles * record.tile_pixels / (self.form.out_height * self.form.out_width)
        return pixels * layer.panels * record.tile_vectors * record.lanes / self.form.out_channels

    @property
    def depthwise_waste(self) -> float:
        """The same for the depthwise stage."""
        layer, record = self.layer, self.record
        pixels = layer.blocks * layer.row_tiles * record.tile_rows * layer.column_tiles * record.tile_columns
        share = pixels / (self.form.out_height * self.form.out_width)
        return share * layer.channel_blocks * record.depthwise_lanes / self.form.depthwise_channels

    @property
    def waste(self) -> float:
        """Both, weighted by the work."""
        taps, filters = self.form.taps, self.form.pointwise.filters if self.form.pointwise else 0
        pointwise = filters * self.pointwise_waste if filters else 0.0
        return (taps * self.depthwise_waste + pointwise) / (taps + filters)

    @property
    def scratch_bytes(self) -> int:
        """The depthwise result of a block."""
        return self.layer.pixels * self.form.depthwise_channels * 4

    @property
    def tasks(self) -> int:
        """The fewest tasks of a kernel."""
        layer, record = self.layer, self.record
        if self.form.pointwise is None or not record.split:
            return layer.blocks
        return min(layer.channel_blocks, layer.panels if record.order == "panel" else layer.pixel_tiles)

    def imbalance(self, threads: int) -> float:
        """The time of the busiest of ``threads`` over an even share; 1 where the tasks divide."""
        return -(-self.tasks // threads) * threads / self.tasks


def cost(record: Schedule, form: Form, machine: Machine) -> float:
    """Predicted cycles of one image on one core."""
    work = Work(record, form)
    cycles = _depthwise(work, machine)
    if form.pointwise is not None:
        cycles += _pointwise(work, machine)
    return cycles


def _pointwise(work: Work, machine: Machine) -> float:
    record, form, layer = work.record, work.form, work.layer
    channels = form.depthwise_channels
    height, width = record.tile_pixels, record.tile_vectors
    # SSE has no load that broadcasts: a load and a shuffle.
    broadcasts = height * (2 if machine.vector_bits == 128 else 1)
    step = max(
        height * width / machine.fma_ports,
        (broadcasts + width) / LOADS_PER_CYCLE,
        2.0 * width,  # weight vectors stream from L2 at half a vector a cycle
        FMA_LATENCY + 1,
    )
    tiles = layer.blocks * layer.panels * layer.pixel_tiles
    loop = (step + 0.2 + 1.0 / record.k_unroll) * channels
    # A partial vector costs as much as a whole one.
    narrow = machine.float_lanes / record.lanes if record.lanes < machine.float_lanes else 1.0
    cycles = tiles * (loop + TILE_START + height * width) * (1.0 + 0.1 * (narrow - 1.0))
    return cycles + _panel_traffic(work, machine) + _scratch_traffic(work, machine)


def _panel_traffic(work: Work, machine: Machine) -> float:
    """Weights that do not stay in L2 are read again for each pixel tile, or once per block in panel order."""
    record, form, layer = work.record, work.form, work.layer
    nbytes = form.depthwise_channels * form.out_channels * 4
    if nbytes <= machine.l2_bytes * 0.5:
        return 0.0
    reads = layer.blocks * (1 if record.order == "panel" else layer.pixel_tiles)
    return reads * nbytes / L3_BYTES_PER_CYCLE * 0.5


def _scratch_traffic(work: Work, machine: Machine) -> float:
    """The depthwise result is written once and read once per panel (panel order) or pixel tile."""
    record, layer = work.record, work.layer
    nbytes = work.scratch_bytes
    reads = layer.blocks * (layer.panels if record.order == "panel" else 1)
    if nbytes <= machine.l1_bytes:
        return 0.0
    speed = L2_BYTES_PER_CYCLE if nbytes <= machine.l2_bytes * 0.6 else L3_BYTES_PER_CYCLE
    return (reads + layer.blocks) * nbytes / speed * 0.5


def _depthwise(work: Work, machine: Machine) -> float:
    record, form, layer = work.record, work.form, work.layer
    kh, kw = form.depthwise.kernel_size
    taps, outputs = kh * kw, record.tile_rows * record.tile_columns
    loads = taps  # the weights
    window = record.tap_unroll >= kw and form.depthwise.dilation_rate[1] == 1
    if window:
        # Neighbouring outputs share their inputs while they are in registers.
        span = (record.tile_columns - 1) * form.depthwise.strides[1] + kw
        rows = (record.tile_rows - 1) * form.depthwise.strides[0] + kh if record.unroll_rows else kh * record.tile_rows
        loads += rows * span
    else:
        loads += taps * outputs
    step = max(taps * outputs / machine.fma_ports, loads / LOADS_PER_CYCLE, taps * FMA_LATENCY)
    tests = 0.0 if record.staged or not _padded(form) else BOUND_TEST * taps * (1.0 if window else outputs)
    tiles = layer.blocks * layer.channel_blocks * layer.row_tiles * layer.column_tiles
    cycles = tiles * (step + tests + TILE_START + outputs)
    if record.staged:
        copied = layer.blocks * (layer.pixels * form.depthwise.strides[0] * form.depthwise.strides[1] + kw)
        cycles += 1.5 * copied * layer.channel_blocks
    # Rows at the border of two blocks are read by both.
    again = max(0, kh - form.depthwise.strides[0]) / max(1, layer.record.rows * form.depthwise.strides[0])
    read = form.height * form.width * form.channels * 4 * (1.0 + (again if layer.blocks > 1 else 0.0))
    return cycles + read / L3_BYTES_PER_CYCLE


def _padded(form: Form) -> bool:
    return any((*form.pad_before, *form.pad_after))
