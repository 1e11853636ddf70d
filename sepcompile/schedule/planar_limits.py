"""What a planar record must satisfy before anything is compiled."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.compute.record import ORDERS
from sepcompile.errors import ScheduleError
from sepcompile.schedule.checks import check_ranges, check_scratch, check_tile, check_word
from sepcompile.targets import Machine


def takes(form: Form) -> bool:
    """Whether planar kernels cover a layer; the others are transposed."""
    if not (form.channels_first_in and form.channels_first_out) or form.depthwise.depth_multiplier > 1:
        return False
    # A second input is always channels_last; PReLU's weight lies as in channels_last, and would be gathered.
    shared = all(shape[0] * shape[1] == 1 for _, shape in form.alphas)
    return shared and form.rowwise is None and form.final.residual is None and _every_phase_has_columns(form)


def check_planar(record: PlanarSchedule, form: Form, machine: Machine) -> None:
    """Raises ``ScheduleError``, naming the knob, its value and what fits, unless ``record`` can be applied."""
    if not takes(form):
        raise ScheduleError(
            "schedule: layout='planar' needs a channels_first layer with depth_multiplier 1, no row-wise activation "
            "and no PReLU weight along rows or columns"
        )
    check_ranges(record, _upper_limits(record, form, machine))
    check_word(record, "order", ORDERS)
    _check_block(record, form)
    _check_registers(record, form, machine)


def _every_phase_has_columns(form: Form) -> bool:
    """Whether each column phase has some column inside the image: a stride may step over a narrow one."""
    record = PlanarSchedule(1, 1, 1, 1, 1, 1, False)
    return all(count > 0 for _, count in PlanarLayer(form, record).interior)


def _upper_limits(record: PlanarSchedule, form: Form, machine: Machine) -> dict[str, int]:
    lanes = machine.float_lanes
    # The vectors of a depthwise layer's output may not run over the end of a row.
    narrow = lanes if form.pointwise is not None else min(lanes, form.out_width)
    limits = {
        "depthwise_lanes": narrow,
        "rows": form.out_height,
        "tile_rows": record.rows,
        "tile_columns": max(1, -(-form.out_width // max(1, record.depthwise_lanes))),
        "tap_unroll": form.depthwise.kernel_size[1],
        "lanes": min(lanes, record.rows * form.out_width) if form.pointwise is not None else lanes,
        "k_unroll": lanes,
    }
    if form.pointwise is not None:
        limits["tile_filters"] = form.out_channels
        limits["tile_vectors"] = record.rows * form.out_width // max(1, record.lanes)
    return limits


def _check_block(record: PlanarSchedule, form: Form) -> None:
    if record.split and (form.pointwise is None or record.rows != form.out_height):
        raise ScheduleError("schedule: split=True needs a pointwise stage, and rows of the whole output")
    check_scratch(record, form, PlanarLayer(form, record).scratch_view.size * 4)


def _check_registers(record: PlanarSchedule, form: Form, machine: Machine) -> None:
    """The accumulators of a register tile, one register per pixel vector and one for the broadcast weight."""
    if form.pointwise is not None:
        used = record.tile_filters * record.tile_vectors + record.tile_vectors + 1
        check_tile(record, "tile_filters", "tile_vectors", used, machine.tile_registers)
    used = record.tile_rows * record.tile_columns + 2
    check_tile(record, "tile_rows", "tile_columns", used, machine.vector_registers)
