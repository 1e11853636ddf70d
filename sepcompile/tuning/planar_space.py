"""The space of planar records: which values each knob takes, and what is rejected by rule.

A layer whose heuristic record is planar is searched here; one that the heuristic transposes, among those of
``tuning.cpu_space``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sepcompile.compute.form import Form
from sepcompile.compute.planar_layer import PlanarLayer
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.compute.record import ORDERS
from sepcompile.errors import ScheduleError
from sepcompile.schedule.blocks import even_tile
from sepcompile.schedule.planar_cost import planar_cycles
from sepcompile.schedule.planar_limits import check_planar
from sepcompile.targets import Machine
from sepcompile.tuning.space import Axis, Space

Knobs = Mapping[str, object]

MOST_WASTE = 1.25
_MOST_TILE_VECTORS = 7
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28)
_TAPS = (1, 2, 3, 5, 7, 8, 9, 11, 13, 15)


def build(form: Form, machine: Machine, default: PlanarSchedule) -> Space[PlanarSchedule]:
    """The space around the heuristic's record."""
    axes = [axis for axis in _axes(form, machine, default) if len(axis.choices) > 1]

    def check(record: PlanarSchedule) -> None:
        check_planar(record, form, machine)
        check_worth(record, default, form, machine)

    make = PlanarSchedule.from_json
    return Space(default, axes, make, check, lambda record: planar_cycles(record, form, machine))


def check_worth(record: PlanarSchedule, default: PlanarSchedule, form: Form, machine: Machine) -> None:
    """Raises ``ScheduleError`` for a record that wastes too much work, cache or threads to be worth compiling."""
    layer, usual = PlanarLayer(form, record), PlanarLayer(form, default)
    if form.pointwise is None:
        return
    if _waste(layer) > max(MOST_WASTE, _waste(usual)):
        raise ScheduleError(f"schedule: computes {_waste(layer):.2f} times what is needed; at most {MOST_WASTE}")
    if record.split:
        return
    scratch, most = layer.scratch_view.size * 4, max(machine.l2_bytes, usual.scratch_view.size * 4)
    if scratch > most:
        raise ScheduleError(f"schedule: {scratch} bytes of scratch; at most {most}")
    if _imbalance(layer.blocks, machine) > max(1.25, _imbalance(usual.blocks, machine)):
        raise ScheduleError(f"schedule: {layer.blocks} tasks cannot be shared by {machine.cores} cores")


def _waste(layer: PlanarLayer) -> float:
    """Pointwise multiply-adds over those needed."""
    record, form = layer.record, layer.form
    pixels = layer.blocks * layer.pixel_tiles * record.tile_vectors * record.lanes / layer.image_pixels
    return pixels * layer.panels * record.tile_filters / form.out_channels


def _imbalance(tasks: int, machine: Machine) -> float:
    return -(-tasks // machine.cores) * machine.cores / tasks


def _axes(form: Form, machine: Machine, default: PlanarSchedule) -> Iterator[Axis]:
    own = default.to_json()

    def axis(name: str, choices: Iterator[Knobs], *knobs: str) -> Axis:
        """The heuristic's own choice comes first."""
        return Axis.of(name, [{knob: own[knob] for knob in knobs}, *({k: c[k] for k in knobs} for c in choices)])

    if form.pointwise is not None:
        yield axis("block", _blocks(form), "rows", "split", "order")
        yield axis("tile", _register_tiles(form, machine), "tile_filters", "tile_vectors")
        yield axis("k_unroll", ({"k_unroll": n} for n in (1, 2, 4, 8) if n <= machine.float_lanes), "k_unroll")
    else:
        yield axis("block", ({"rows": rows} for rows in _rows(form)), "rows")
    yield axis("depthwise", _depthwise_tiles(form, machine, default), "tile_rows", "tile_columns")
    width = form.depthwise.kernel_size[1]
    yield axis("taps", ({"tap_unroll": n} for n in (*_TAPS, width) if n <= width), "tap_unroll")
    if form.depthwise.kernel_size[0] > 1:
        yield axis("unroll_rows", ({"unroll_rows": value} for value in (False, True)), "unroll_rows")


def _rows(form: Form) -> list[int]:
    return sorted({even_tile(form.out_height, rows) for rows in (*_ROWS, form.out_height)})


def _blocks(form: Form) -> Iterator[Knobs]:
    for order in ORDERS:
        yield {"rows": form.out_height, "split": True, "order": order}
        for rows in _rows(form):
            yield {"rows": rows, "split": False, "order": order}


def _register_tiles(form: Form, machine: Machine) -> Iterator[Knobs]:
    """Tall tiles of each width: from all the accumulators that the registers hold down to half of them."""
    for vectors in range(1, _MOST_TILE_VECTORS + 1):
        most = min(form.out_channels, (machine.tile_registers - 1 - vectors) // vectors)
        for filters in range(most, max(0, most // 2 - 1), -1):
            yield {"tile_filters": filters, "tile_vectors": vectors}


def _depthwise_tiles(form: Form, machine: Machine, default: PlanarSchedule) -> Iterator[Knobs]:
    vectors = -(-form.out_width // default.depthwise_lanes)
    for rows in (1, 2, 3, 4, 7) if form.out_height > 1 else (1,):
        for columns in range(1, min(vectors, 10) + 1):
            if rows * columns <= machine.vector_registers - 2 and rows <= form.out_height:
                yield {"tile_rows": rows, "tile_columns": columns}
