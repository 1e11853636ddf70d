"""Chooses a schedule for RISC-V CPUs: x86's blocks and depthwise tiles, and a pointwise tile of RISC-V's registers.

Without the vector extension an element is a vector of one lane. With it, a multiply-add takes its scalar factor from
a floating-point register, so that a broadcast is one load and no vector register. Nothing here was measured on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.schedule import x86
from sepcompile.schedule.blocks import lanes_of
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine

_MOST_VECTORS = 6
# A loop's own instructions, shared by the channels that it takes at once.
_LOOP = 1.0


def choose(form: Form, machine: Machine) -> Schedule:
    """The record for ``form``, always one that ``check_record`` accepts."""
    record = x86.choose(form, machine)
    if form.pointwise is not None:
        pixels, vectors = _register_tile(form, machine, record.rows * record.columns)
        record = replace(record, tile_pixels=pixels, tile_vectors=vectors, tile_groups=1)
    check_record(record, form, machine)
    return record


def _register_tile(form: Form, machine: Machine, pixels: int) -> tuple[int, int]:
    """Pixels and vectors of filters of the pointwise tile with the fewest cycles for a block of ``pixels``."""
    lanes = lanes_of(form.out_channels, machine)
    vectors = -(-form.out_channels // lanes)
    shapes = [
        (height, width)
        for width in range(1, min(_MOST_VECTORS, vectors) + 1)
        for height in range(1, pixels + 1)
        if _registers(height, width, machine) <= machine.tile_registers
    ]

    def cycles(shape: tuple[int, int]) -> tuple[float, int]:
        """One instruction is issued in a cycle, and a sum can be added to again after the multiplier's latency."""
        height, width = shape
        sums = height * width
        issued = sums / machine.fma_ports + (height + width) / machine.load_ports
        return -(-pixels // height) * -(-vectors // width) * (max(issued, machine.fma_latency) + _LOOP), sums

    return min(shapes, key=cycles)


def _registers(height: int, width: int, machine: Machine) -> int:
    """Sums and weights; scalar code keeps the pixels in the same registers."""
    return height * width + width + (height if machine.float_lanes == 1 else 1)
