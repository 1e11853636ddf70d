"""Regularizers and constraints: validated as Keras would, and without effect at inference.

A regularizer only adds to the training loss and a constraint is applied by the optimizer, so negative weights survive
``non_neg``. They are read in full all the same: an unknown name is an error in Keras, and silence would hide a typo.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sepcompile.errors import UnsupportedError
from sepcompile.frontend.serialized import ObjectClass, read_object, snake_case
from sepcompile.frontend.values import choice, fail, integer, number
from sepcompile.ir.stages import Origin


def _number(value: object, where: Origin) -> float:
    return number(value, where)


def _penalty(value: object, where: Origin) -> float | None:
    return None if value is None else number(value, where)


def _mode(value: object, where: Origin) -> str:
    return choice(value, where, ("rows", "columns"))


def _axis(value: object, where: Origin) -> int | list[int]:
    if isinstance(value, list) and value:
        return [integer(item, where, -8, 8) for item in value]
    return integer(value, where, -8, 8)


def _table(*classes: ObjectClass) -> Mapping[str, ObjectClass]:
    return MappingProxyType({name: cls for cls in classes for name in (cls.name, snake_case(cls.name))})


_L1L2 = ObjectClass("L1L2", {"l1": (0.0, _penalty), "l2": (0.0, _penalty)})
REGULARIZERS: Mapping[str, ObjectClass] = MappingProxyType(
    {
        **_table(
            ObjectClass("L1", {"l1": (0.01, _penalty)}),
            ObjectClass("L2", {"l2": (0.01, _penalty)}),
            _L1L2,
            ObjectClass("OrthogonalRegularizer", {"factor": (0.01, _number), "mode": ("rows", _mode)}),
        ),
        # Keras 2 and R write the function's name.
        "l1_l2": _L1L2,
    }
)

_MAX_NORM = ObjectClass("MaxNorm", {"max_value": (2.0, _number), "axis": (0, _axis)})
CONSTRAINTS: Mapping[str, ObjectClass] = _table(
    _MAX_NORM,
    ObjectClass(
        "MinMaxNorm",
        {"min_value": (0.0, _number), "max_value": (1.0, _number), "rate": (1.0, _number), "axis": (0, _axis)},
    ),
    ObjectClass("NonNeg", {}),
    ObjectClass("UnitNorm", {"axis": (0, _axis)}),
    # Keras 2 only: its constraints for recurrent kernels.
    ObjectClass("RadialConstraint", {}),
)


def regularizer(value: object, where: Origin) -> dict[str, Any] | None:
    """A regularizer as {"class_name", "config"} with every parameter, or None."""
    return _read(value, REGULARIZERS, where, "regularizer")


def constraint(value: object, where: Origin) -> dict[str, Any] | None:
    """A constraint as {"class_name", "config"} with every parameter, or None.

    ``RadialConstraint`` needs a square 2-D kernel, which these layers never have; Keras fails when training.
    """
    result = _read(value, CONSTRAINTS, where, "constraint")
    if result is not None and result["class_name"] == "RadialConstraint":
        raise UnsupportedError(f"{where}: RadialConstraint does not fit a convolution kernel")
    return result


def _read(value: object, table: Mapping[str, ObjectClass], where: Origin, what: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, str | dict):
        fail(where, value, f"None, the name of a Keras {what} or its serialized dict")
    wrapped = read_object(value, table, where, what)
    return {"class_name": wrapped.class_name, "config": wrapped.config}
