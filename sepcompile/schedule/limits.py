"""What a record must satisfy before anything is compiled."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import CpuSchedule, PlanarSchedule
from sepcompile.compute.record import DEPTHWISE_ORDERS, ORDERS, Schedule
from sepcompile.errors import ScheduleError
from sepcompile.schedule.checks import check_ranges, check_scratch, check_tile, check_word
from sepcompile.schedule.planar_limits import check_planar
from sepcompile.targets import Machine

# Input channels of the pointwise stage that are unrolled: more only makes code.
MOST_K_UNROLL = 8


def check_record(record: CpuSchedule, form: Form, machine: Machine) -> None:
    """Raises ``ScheduleError``, naming the knob, its value and what fits, unless ``record`` can be applied."""
    if isinstance(record, PlanarSchedule):
        check_planar(record, form, machine)
        return
    check_ranges(record, _upper_limits(record, form, machine))
    check_word(record, "order", ORDERS)
    check_word(record, "depthwise_order", DEPTHWISE_ORDERS)
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
    check_scratch(record, form, record.rows * record.columns * form.depthwise_channels * 4)


def _check_registers(record: Schedule, form: Form, machine: Machine) -> None:
    """The accumulators of a register tile, one register per weight vector and one for the broadcast input."""
    if form.pointwise is not None:
        used = record.tile_pixels * record.tile_vectors + record.tile_vectors + 1
        check_tile(record, "tile_pixels", "tile_vectors", used, machine.tile_registers)
    used = record.tile_rows * record.tile_columns * -(-record.depthwise_lanes // machine.float_lanes) + 2
    check_tile(record, "tile_rows", "tile_columns", used, machine.vector_registers)
