"""Schedules: the record of knobs, the heuristic that picks one, and the function that applies one."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.compute.record import Schedule
from sepcompile.schedule import arm, mcu, x86
from sepcompile.targets import Target

__all__ = ["Schedule", "choose"]

_CHOOSERS = {"x86": x86.choose, "arm": arm.choose, "cortex-m": mcu.choose}


def choose(form: Form, target: Target) -> Schedule:
    """The heuristic's schedule for ``form`` on ``target``."""
    return _CHOOSERS[target.family](form, target.machine)
