"""Checked reading of single values: every failure is a ``ConfigError`` that names layer, field, value and what fits.

``where`` is an ``Origin`` whose field is the one being read; its text is ``SeparableConv2D "sep_1".strides``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from sepcompile.errors import ConfigError
from sepcompile.ir.stages import Origin

MAX_INTEGER = 2**31 - 1
MAX_DEPTH = 32
MAX_NODES = 200_000


def _bounded_repr() -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlist = short.maxtuple = short.maxdict = 8
    return short


_SHORT = _bounded_repr()


def at(where: Origin, field: str) -> Origin:
    """``where`` with ``field`` below its own field."""
    return replace(where, field=f"{where.field}.{field}" if where.field else field)


def show(value: object) -> str:
    """A bounded, printable ASCII repr of any object, also of one whose ``repr`` raises."""
    try:
        text = _SHORT.repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text.encode("ascii", "backslashreplace").decode("ascii")


def printable(name: str) -> str:
    """A name from a file as it may appear in a message: escaped and at most 80 characters."""
    text = name.encode("unicode_escape").decode("ascii").replace('"', "'")
    return text if len(text) <= 80 else text[:77] + "..."


def fail(where: Origin, value: object, expected: str) -> NoReturn:
    """Raises the ``ConfigError`` of this module's form."""
    raise ConfigError(f"{where}={show(value)}: expected {expected}")


def plain(value: object, where: Origin, depth: int = MAX_DEPTH, nodes: int = MAX_NODES) -> Any:
    """``value`` as JSON types only: tuples become lists, NumPy scalars Python's; anything else is refused.

    Bounded in depth and in nodes, so that a recursive or huge structure is an error and not a crash.
    """
    budget = [nodes]
    try:
        return _plain(value, where, (), depth, budget)
    except _TooMuchError:
        raise ConfigError(f"{where}: nested deeper than {depth} levels or more than {nodes} values") from None


class _TooMuchError(Exception):
    """A structure beyond the bounds."""


def _plain(value: object, where: Origin, path: tuple[str | int, ...], depth: int, budget: list[int]) -> Any:
    """``path`` leads from ``where`` to the value; it becomes text only where something is wrong."""
    budget[0] -= 1
    if depth < 0 or budget[0] < 0:
        raise _TooMuchError
    if value is None or isinstance(value, bool | str):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, np.bool_ | np.integer | np.floating):
        value = value.item()
    if isinstance(value, bool | int | float):
        return value if isinstance(value, bool) else _number(value, where, path)
    if isinstance(value, Mapping):
        return {
            key: _plain(item, where, (*path, key), depth - 1, budget)
            for key, item in ((_key(k, where, path), v) for k, v in value.items())
        }
    if isinstance(value, list | tuple):
        return [_plain(item, where, (*path, i), depth - 1, budget) for i, item in enumerate(value)]
    fail(_below(where, path), value, "plain data (None, bool, int, float, str, list, dict), not a Python object")


def _below(where: Origin, path: tuple[str | int, ...]) -> Origin:
    return at(where, ".".join(map(str, path))) if path else where


def _key(key: object, where: Origin, path: tuple[str | int, ...]) -> str:
    if not isinstance(key, str):
        fail(_below(where, path), key, "a string as key")
    return printable(key)


def _number(value: int | float, where: Origin, path: tuple[str | int, ...]) -> int | float:
    if isinstance(value, int):
        if abs(value) >= 2**63:
            bits = value.bit_length()
            raise ConfigError(f"{_below(where, path)}: an integer of {bits} bits; expected one below 2**63")
        return int(value)
    return float(value)


def integer(value: object, where: Origin, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
    """An int within bounds; True, 3.0 and "3" are not integers."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        fail(where, value, f"an integer >= {minimum}" + (f" and <= {maximum}" if maximum != MAX_INTEGER else ""))
    return value


def sizes(value: object, rank: int, where: Origin) -> tuple[int, ...]:
    """A positive int, repeated, or exactly ``rank`` of them."""
    expected = f"an integer >= 1 or {rank} of them"
    if isinstance(value, list):
        if len(value) != rank:
            fail(where, value, expected)
        items: Sequence[object] = value
    else:
        items = [value] * rank
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int) or not 1 <= item <= MAX_INTEGER:
            fail(where, value, expected)
    return tuple(item for item in items if isinstance(item, int))


def number(value: object, where: Origin, minimum: float = -math.inf, *, exclusive: bool = False) -> float:
    """A finite float of at least (``exclusive``: above) ``minimum``."""
    bound = "" if minimum == -math.inf else f" {'>' if exclusive else '>='} {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        fail(where, value, f"a finite number{bound}")
    if value < minimum or (exclusive and value == minimum):
        fail(where, value, f"a finite number{bound}")
    return float(value)


def string(value: object, where: Origin) -> str:
    """A str."""
    if not isinstance(value, str):
        fail(where, value, "a string")
    return value


def choice(value: object, where: Origin, accepted: Sequence[str], *, any_case: bool = False) -> str:
    """One of the accepted strings; ``any_case`` ignores letter case, as Keras does for padding and data_format."""
    text = value.lower() if any_case and isinstance(value, str) else value
    if not isinstance(text, str) or text not in accepted:
        fail(where, value, "one of " + ", ".join(repr(name) for name in accepted))
    return text


def truth(value: object, where: Origin) -> bool:
    """A bool, or the 0, 1 and None that Keras takes for one; a string such as "no" is refused, not true."""
    if value is None:
        return False
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    fail(where, value, "True or False")


def mapping(value: object, where: Origin) -> dict[str, Any]:
    """A dict with string keys."""
    if not isinstance(value, dict):
        fail(where, value, "a dict")
    return value
