"""Schedules: the record of knobs, the heuristic that picks one, and the function that applies one."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import CpuSchedule
from sepcompile.compute.record import Schedule
from sepcompile.schedule import arm, mcu, planar, riscv, x86
from sepcompile.targets import Target

__all__ = ["CpuSchedule", "Schedule", "choose", "choose_transposed"]

_CHOOSERS = {"x86": x86.choose, "arm": arm.choose, "riscv": riscv.choose, "cortex-m": mcu.choose}


# Planar kernels are chosen by a model that was fitted on these families.
_PLANAR = ("x86",)


def choose(form: Form, target: Target) -> CpuSchedule:
    """The heuristic's schedule for ``form`` on ``target``."""
    transposed = choose_transposed(form, target)
    if target.family not in _PLANAR:
        return transposed
    return planar.choose(form, target.machine, transposed) or transposed


def choose_transposed(form: Form, target: Target) -> Schedule:
    """The heuristic's schedule for kernels whose vectors run along channels, between transposes if need be."""
    return _CHOOSERS[target.family](form, target.machine)
