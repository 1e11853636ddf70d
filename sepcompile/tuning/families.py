"""Which space a target's family is tuned in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import PlanarSchedule
from sepcompile.errors import TuningError
from sepcompile.schedule import choose
from sepcompile.targets import Target
from sepcompile.tuning import cpu_space, cuda_space, planar_space
from sepcompile.tuning.space import Space


def _cpu(form: Form, target: Target, batch: int | None) -> Space[Any]:
    default = choose(form, target)
    if isinstance(default, PlanarSchedule):
        return planar_space.build(form, target.machine, default)
    return cpu_space.build(form, target, batch)


_BUILDERS: dict[str, Callable[[Form, Target, int | None], Space[Any]]] = {
    "x86": _cpu,
    "arm": _cpu,
    "riscv": _cpu,
    "cuda": cuda_space.build,
}


def build_space(form: Form, target: Target, batch: int | None) -> Space[Any]:
    """The records that are worth trying for ``form`` on ``target``; ``batch`` is the program's, None for any.

    Raises ``TuningError`` for a family that has no space.
    """
    if target.family not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise TuningError(
            f"target={target.name!r}: family {target.family!r} cannot be tuned; families that can: {known}"
        )
    return _BUILDERS[target.family](form, target, batch)
