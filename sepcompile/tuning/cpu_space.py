"""The space of CPU records (x86, arm, riscv): which values each knob takes, and what is rejected by rule.

Values follow from the layer's extents and the target's registers by the small functions below, around what the
heuristic chose, so that the same code serves every vector width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields

from sepcompile.compute.form import Form
from sepcompile.compute.record import ORDERS, Schedule
from sepcompile.errors import ScheduleError
from sepcompile.schedule import choose_transposed
from sepcompile.schedule.limits import check_record
from sepcompile.targets import Machine, Target
from sepcompile.tuning.cost import Work, cost
from sepcompile.tuning.space import Axis, Space

Knobs = Mapping[str, object]

# Computed multiply-adds over needed ones, and scratch over the L2 cache: beyond these no such record was ever best.
MOST_WASTE = 1.25
MOST_SCRATCH = 1.0
_BLOCK_COLUMNS = (16, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256)
_TILE_COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24)
_TAPS = (1, 2, 3, 5, 7, 8, 9, 11, 13, 15)
_MOST_TILE_VECTORS = 6
# Knobs that stand alone. A few values of each are enough, since ``check_record`` rejects what does not go together.
_OTHERS: Mapping[str, tuple[object, ...]] = {
    "depthwise_order": ("pixel", "channel"),
    "tile_group": (1, 2, 4),
    "tile_groups": (1, 2, 4),
}


def build(form: Form, target: Target, batch: int | None) -> Space[Schedule]:
    """The space of a layer; the batch does not matter, since kernels work on one image."""
    machine = target.machine
    default = choose_transposed(form, target)
    axes = [axis for axis in _axes(form, machine, default) if len(axis.choices) > 1]

    def check(record: Schedule) -> None:
        check_record(record, form, machine)
        check_worth(record, default, form, machine)

    return Space(default, axes, Schedule.from_json, check, lambda record: cost(record, form, machine))


def check_worth(record: Schedule, default: Schedule, form: Form, machine: Machine) -> None:
    """Raises ``ScheduleError`` for a record that wastes too much work, cache or threads to be worth compiling.

    What the heuristic's own record wastes is always granted.
    """
    work, usual = Work(record, form), Work(default, form)
    if work.waste > max(MOST_WASTE, usual.waste):
        raise ScheduleError(f"schedule: computes {work.waste:.2f} times what is needed; at most {MOST_WASTE}")
    if not record.split and form.pointwise is not None:
        most = max(MOST_SCRATCH * machine.l2_bytes, usual.scratch_bytes)
        if work.scratch_bytes > most:
            raise ScheduleError(f"schedule: {work.scratch_bytes} bytes of scratch; at most {most:.0f}")
    # The artifact will be called with any number of threads: none of them may be left without work.
    if work.imbalance(machine.cores) > max(1.25, usual.imbalance(machine.cores)):
        raise ScheduleError(f"schedule: {work.tasks} tasks cannot be shared by {machine.cores} cores")


def _axes(form: Form, machine: Machine, default: Schedule) -> Iterator[Axis]:
    own = default.to_json()

    def axis(name: str, choices: Iterator[Knobs], *knobs: str) -> Axis:
        """The heuristic's own choice comes first."""
        return Axis.of(name, [{knob: own[knob] for knob in knobs}, *({k: c[k] for k in knobs} for c in choices)])

    if form.pointwise is not None:
        yield axis("block", _blocks(form, machine), "rows", "columns", "split", "order")
        yield axis("tile", _register_tiles(machine), "tile_pixels", "tile_vectors")
        yield axis("k_unroll", ({"k_unroll": n} for n in _powers(machine.float_lanes)), "k_unroll")
    else:
        yield axis("block", _blocks(form, machine), "rows", "columns")
    yield axis("depthwise", _depthwise_tiles(form, machine), "tile_rows", "tile_columns")
    yield axis("taps", _taps(form), "tap_unroll")
    yield axis("lanes", _lanes(form.out_channels, default.lanes, "lanes"), "lanes")
    if form.pointwise is not None:
        some = _lanes(form.depthwise_channels, default.depthwise_lanes, "depthwise_lanes")
        yield axis("depthwise_lanes", some, "depthwise_lanes")
    for flag in _flags(form):
        yield axis(flag, ({flag: value} for value in (False, True)), flag)
    for name, values in _OTHERS.items() if form.pointwise is not None else ():
        if name in own:
            yield axis(name, ({name: value} for value in values), name)


def _flags(form: Form) -> list[str]:
    """Every knob that is on or off and stands alone, also one that is new to this module."""
    flags = [item.name for item in fields(Schedule) if item.type == "bool" and item.name != "split"]
    return [flag for flag in flags if flag != "unroll_rows" or form.depthwise.kernel_size[0] > 1]


def _blocks(form: Form, machine: Machine) -> Iterator[Knobs]:
    whole = {"rows": form.out_height, "columns": form.out_width}
    sizes = [whole]
    if form.out_height == 1:
        sizes += [{"rows": 1, "columns": _even(form.out_width, n)} for n in _BLOCK_COLUMNS if n < form.out_width]
    else:
        shares = [-(-form.out_height // (machine.cores * n)) for n in (1, 2, 3, 4)]
        counts = sorted({_even(form.out_height, n) for n in range(1, 9)} | set(shares))
        sizes += [{"rows": rows, "columns": form.out_width} for rows in counts]
    for order in ORDERS:
        yield {**whole, "split": True, "order": order}
        for size in sizes:
            yield {**size, "split": False, "order": order}


def _register_tiles(machine: Machine) -> Iterator[Knobs]:
    """Tall tiles of each width: from all the accumulators that the registers hold down to half of them."""
    for vectors in range(1, _MOST_TILE_VECTORS + 1):
        most = (machine.tile_registers - 1 - vectors) // vectors
        for pixels in range(most, max(0, most // 2 - 1), -1):
            yield {"tile_pixels": pixels, "tile_vectors": vectors}


def _depthwise_tiles(form: Form, machine: Machine) -> Iterator[Knobs]:
    most = machine.vector_registers - 2
    divisors = {n for n in range(1, 25) if form.out_width % n == 0}
    for rows in (1, 2, 4) if form.out_height > 1 else (1,):
        for columns in sorted({*_TILE_COLUMNS, *divisors}):
            if rows * columns <= most and rows <= form.out_height and columns <= form.out_width:
                yield {"tile_rows": rows, "tile_columns": columns}


def _taps(form: Form) -> Iterator[Knobs]:
    width = form.depthwise.kernel_size[1]
    return ({"tap_unroll": n} for n in (*_TAPS, width) if n <= width)


def _lanes(channels: int, chosen: int, knob: str) -> Iterator[Knobs]:
    """Half a vector as well, where whole ones do not divide the channels."""
    halves = (chosen // 2,) if channels % chosen and chosen > 1 else ()
    return ({knob: lanes} for lanes in (chosen, *halves))


def _powers(most: int) -> Iterator[int]:
    return (2**n for n in range(int(math.log2(most)) + 1))


def _even(extent: int, wanted: int) -> int:
    """The least tile that covers ``extent`` in as few tiles as ``wanted`` does."""
    return -(-extent // -(-extent // wanted))
