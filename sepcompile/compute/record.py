"""The schedule record: every knob of a CPU kernel, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from sepcompile.errors import ScheduleError

ORDERS = ("pixel", "panel")
DEPTHWISE_ORDERS = ("pixel", "channel")


@dataclass(frozen=True)
class Schedule:
    """How one layer is computed on one CPU family.

    The depthwise stage fills a channel-blocked scratch of ``rows`` x ``columns`` output pixels at a time; the pointwise
    stage multiplies it by packed weight panels. All sizes are in elements of the unit named.

    lanes: float32 lanes of a vector along ``filters`` (or along channels, for a depthwise layer).
    depthwise_lanes: lanes along the channels of the depthwise stage.
    rows, columns: output rows and columns per block; one block is one task. ``columns`` is the whole width unless the
        output has a single row.
    tile_rows, tile_columns: depthwise register tile, output pixels that accumulate at once.
    tap_unroll: kernel columns unrolled in the depthwise loop (the register window of a long kernel).
    unroll_rows: whether kernel rows are unrolled as well.
    staged: copy a zero-padded block of input channels into scratch first, instead of testing bounds at each tap.
    depthwise_order: ``pixel`` walks the channels inside a tile of pixels, ``channel`` the pixels inside a vector of
        channels. A staged block is always walked by channel.
    tile_pixels, tile_vectors: pointwise register tile, pixels x vectors of filters.
    k_unroll: input channels of the pointwise stage unrolled.
    order: ``pixel`` walks the weight panels inside a pixel tile, ``panel`` the pixel tiles inside a weight panel.
    split: depthwise and pointwise as two kernels with the whole image between them.
    tile_groups: of a split layer that walks panels first, in how many groups of consecutive pixel tiles it does so, one
        after the other: what a group reads stays in a cache that does not hold the image.
    prefetch: of a layer that is not split, ask for the input of the next block while this block's product runs.
    """

    lanes: int
    depthwise_lanes: int
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int
    tap_unroll: int
    unroll_rows: bool
    staged: bool
    depthwise_order: str = "pixel"
    tile_groups: int = 1
    tile_pixels: int = 1
    tile_vectors: int = 1
    k_unroll: int = 1
    order: str = "pixel"
    split: bool = False
    prefetch: bool = False

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Schedule:
        """Read ``to_json``'s object back; raises ``ScheduleError`` for a missing, unknown or ill-typed knob."""
        kinds = {f.name: {"int": int, "bool": bool, "str": str}[str(f.type)] for f in fields(Schedule)}
        if unknown := sorted(set(data) - set(kinds)):
            raise ScheduleError(f"schedule: unknown knob {unknown[0]!r}; known are {', '.join(kinds)}")
        for name, value in data.items():
            if type(value) is not kinds[name]:
                raise ScheduleError(f"schedule: {name}={value!r} must be {kinds[name].__name__}")
        try:
            return Schedule(**data)  # type: ignore[arg-type]
        except TypeError as error:
            raise ScheduleError(f"schedule: {error}") from error
