"""What the checks of all CPU records share; each raises ``ScheduleError`` with the knob, its value and what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import CpuSchedule
from sepcompile.errors import ScheduleError

# A block's scratch is per thread; beyond this no cache of any target holds it, and the arena would grow without use.
MOST_SCRATCH_BYTES = 256 * 2**20


def check_ranges(record: CpuSchedule, limits: Mapping[str, int]) -> None:
    """Each knob of ``limits`` is at least 1 and at most what stands there; lanes are powers of two as well."""
    for name, most in limits.items():
        value = getattr(record, name)
        if not 1 <= value <= most:
            raise ScheduleError(f"schedule: {name}={value} must be between 1 and {most} for this layer and target")
    for name in ("lanes", "depthwise_lanes"):
        value = getattr(record, name)
        if value & (value - 1):
            raise ScheduleError(f"schedule: {name}={value} must be a power of two")


def check_word(record: CpuSchedule, name: str, words: Sequence[str]) -> None:
    """The knob ``name`` is one of ``words``."""
    value = getattr(record, name)
    if value not in words:
        raise ScheduleError(f"schedule: {name}={value!r} must be one of {', '.join(words)}")


def check_scratch(record: CpuSchedule, form: Form, scratch: int) -> None:
    """A fused block's depthwise result, ``scratch`` bytes, is of a size that a cache may hold."""
    if form.pointwise is not None and not record.split and scratch > MOST_SCRATCH_BYTES:
        raise ScheduleError(f"schedule: rows={record.rows} needs {scratch} bytes of scratch, over {MOST_SCRATCH_BYTES}")


def check_tile(record: CpuSchedule, one: str, other: str, used: int, most: int) -> None:
    """The register tile of the knobs ``one`` and ``other`` needs ``used`` vector registers and may use ``most``."""
    if used > most:
        tile = f"{one}={getattr(record, one)} x {other}={getattr(record, other)}"
        raise ScheduleError(f"schedule: {tile} needs {used} vector registers, a tile of this target has {most}")
