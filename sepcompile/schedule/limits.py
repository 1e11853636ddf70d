"""What a record must satisfy before anything is compiled."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import CpuSchedule, PlanarSchedule
from sepcompile.compute.record import DEPTHWISE_ORDERS, ORDERS, Schedule
from sepcompile.errors import ScheduleError
from sepcompile.schedule.planar_limits import check_planar
from sepcompile.targets import Machine

# A block's scratch is per thread; beyond this no cache of any target holds it, and the arena would grow without use.
MOST_SCRATCH_BYTES = 256 * 2**20
# Input channels of the pointwise stage that are unrolled: more only makes code.
MOST_K_UNROLL = 8


def check_record(record: CpuSchedule, form: Form, machine: Machine) -> None:
    """Raises ``ScheduleError``, naming the knob, its value and what fits, unless ``record`` can be applied."""
    if isinstance(record, PlanarSchedule):
        check_planar(record, form, machine)
        return
    for name, most in _upper_limits(record, form, machine).items():
        value = getattr(record, name)
        if not 1 <= value <= most:
            raise ScheduleError(f"schedule: {name}={value} must be between 1 and {most} for this layer and target")
    for name in ("lanes", "depthwise_lanes"):
        value = getattr(record, name)
        if value & (value - 1):
            raise ScheduleError(f"schedule: {name}={value} must be a power of two")
    for name, orders in (("order", ORDERS), ("depthwise_order", DEPTHWISE_ORDERS)):
        if getattr(record, name) not in orders:
            raise ScheduleError(f"schedule: {name}={getattr(record, name)!r} must be one of {', '.join(orders)}")
    _check_blocks(record, form)
    _check_registers(record, form, machine)


def _upper_limits(record: Schedule, form: Form, machine: Machine) -> dict[str, int]:
    limits = {
        "lanes": min(machine.float_lanes, form.out_channels),
        "depthwise_lanes": min(2 * machine.float_lanes, form.depthwise_channels),
        "rows": form.out_height,
        "columns": form.out_width,
        "tile_rows": record.rows,
        "tile_columns": record.columns,
        "tap_unroll": form.depthwise.kernel_size[1],
        "k_unroll": max(machine.float_lanes, MOST_K_UNROLL),
    }
    if form.pointwise is not None:
        limits["tile_pixels"] = record.rows * record.columns
        limits["tile_groups"] = record.rows * record.columns
        limits["tile_vectors"] = -(-form.out_channels // record.lanes)
    return limits


def _check_blocks(record: Schedule, form: Form) -> None:
    if form.out_height > 1 and record.columns != form.out_width:
        raise ScheduleError(f"schedule: columns={record.columns} must be the output's {form.out_width} columns")
    whole = record.rows == form.out_height and record.columns == form.out_width
    if record.split and (form.pointwise is None or not whole):
        raise ScheduleError("schedule: split=True needs a pointwise stage, and rows and columns of the whole output")
    tiles = -(-record.rows * record.columns // record.tile_pixels)
    if record.tile_groups > 1 and (not record.split or record.order != "panel" or tiles % record.tile_groups):
        raise ScheduleError(
            f"schedule: tile_groups={record.tile_groups} needs split=True, order='panel' and a divisor of {tiles} tiles"
        )
    if record.prefetch and (form.pointwise is None or record.split or whole):
        raise ScheduleError("schedule: prefetch=True needs a pointwise stage, split=False and more than one block")
    scratch = record.rows * record.columns * form.depthwise_channels * 4
    if form.pointwise is not None and scratch > MOST_SCRATCH_BYTES and not record.split:
        raise ScheduleError(f"schedule: rows={record.rows} needs {scratch} bytes of scratch, over {MOST_SCRATCH_BYTES}")


def _check_registers(record: Schedule, form: Form, machine: Machine) -> None:
    """The accumulators of a register tile, one register per weight vector and one for the broadcast input."""
    if form.pointwise is not None:
        used, most = record.tile_pixels * record.tile_vectors + record.tile_vectors + 1, machine.tile_registers
        if used > most:
            tile = f"tile_pixels={record.tile_pixels} x tile_vectors={record.tile_vectors}"
            raise ScheduleError(f"schedule: {tile} needs {used} vector registers, a tile of this target has {most}")
    registers = machine.vector_registers
    used = record.tile_rows * record.tile_columns * -(-record.depthwise_lanes // machine.float_lanes) + 2
    if used > registers:
        tile = f"tile_rows={record.tile_rows} x tile_columns={record.tile_columns}"
        raise ScheduleError(f"schedule: {tile} needs {used} vector registers, the target has {registers}")
