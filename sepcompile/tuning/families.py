"""Which space a target's family is tuned in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepcompile.compute.form import Form
from sepcompile.errors import TuningError
from sepcompile.targets import Target
from sepcompile.tuning import cpu_space
from sepcompile.tuning.space import Space

_BUILDERS: dict[str, Callable[[Form, Target, int | None], Space[Any]]] = {
    "x86": cpu_space.build,
    "arm": cpu_space.build,
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
