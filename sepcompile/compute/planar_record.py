"""The schedule record of planar (channels_first) CPU kernels: every knob, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from sepcompile.compute.record import Schedule
from sepcompile.errors import ScheduleError

LAYOUTS = ("transposed", "planar")


@dataclass(frozen=True)
class PlanarSchedule:
    """How a channels_first layer is computed on one CPU family without transposing it: vectors run along pixels.

    Of each channel a zero-padded copy of the rows that a block needs is staged in scratch; the depthwise stage writes
    ``rows`` whole output rows of every channel to another scratch, and the pointwise stage multiplies the packed
    weights by them. All sizes are in elements of the unit named.

    lanes: float32 lanes of a vector along the pixels of the pointwise stage.
    depthwise_lanes: lanes along a row of the depthwise stage; more than a row has, where the surplus falls on what is
        written next.
    rows: output rows per block; one block is one task (of one channel, in a depthwise layer).
    tile_rows, tile_columns: depthwise register tile, rows x vectors that accumulate at once.
    tap_unroll: kernel columns unrolled in the depthwise loop.
    unroll_rows: whether kernel rows are unrolled as well.
    tile_filters, tile_vectors: pointwise register tile, filters x vectors of pixels.
    k_unroll: input channels of the pointwise stage unrolled.
    order: ``pixel`` walks the weight panels inside a pixel tile, ``panel`` the pixel tiles inside a weight panel.
    split: depthwise and pointwise as two kernels with the whole image between them.
    """

    lanes: int
    depthwise_lanes: int
    rows: int
    tile_rows: int
    tile_columns: int
    tap_unroll: int
    unroll_rows: bool
    tile_filters: int = 1
    tile_vectors: int = 1
    k_unroll: int = 1
    order: str = "pixel"
    split: bool = False

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object; ``layout`` tells it from a ``Schedule``'s."""
        return {"layout": "planar", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> PlanarSchedule:
        """Read ``to_json``'s object back; raises ``ScheduleError`` for a missing, unknown or ill-typed knob."""
        kinds = {f.name: {"int": int, "bool": bool, "str": str}[str(f.type)] for f in fields(PlanarSchedule)}
        knobs = {name: value for name, value in data.items() if name != "layout"}
        if data.get("layout") != "planar":
            raise ScheduleError(f"schedule: layout={data.get('layout')!r} must be 'planar'")
        if unknown := sorted(set(knobs) - set(kinds)):
            raise ScheduleError(f"schedule: unknown knob {unknown[0]!r}; known are layout, {', '.join(kinds)}")
        for name, value in knobs.items():
            if type(value) is not kinds[name]:
                raise ScheduleError(f"schedule: {name}={value!r} must be {kinds[name].__name__}")
        try:
            return PlanarSchedule(**knobs)  # type: ignore[arg-type]
        except TypeError as error:
            raise ScheduleError(f"schedule: {error}") from error


CpuSchedule = Schedule | PlanarSchedule


def read_record(data: Mapping[str, object]) -> CpuSchedule:
    """The record of a CPU schedule from its JSON object, whichever of the two it is; raises ``ScheduleError``."""
    layout = data.get("layout", "transposed")
    if layout not in LAYOUTS:
        raise ScheduleError(f"schedule: layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    if layout == "planar":
        return PlanarSchedule.from_json(data)
    return Schedule.from_json({name: value for name, value in data.items() if name != "layout"})
