"""Reading untrusted JSON: strict parsing, and typed access that names the field in every error."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import ArtifactError

_MOST_DIGITS = 20


def parse_json(data: bytes, where: str) -> Any:
    """JSON text in UTF-8. Raises ``ArtifactError`` also for duplicate keys, NaN, huge numbers and deep nesting."""
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant
        )
    except RecursionError:
        raise ArtifactError(f"{where}: nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError and json.JSONDecodeError
        raise ArtifactError(f"{where}: not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!r} occurs twice")
    return result


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:  # Python before 3.11 takes seconds to read a megabyte of digits
        raise ValueError(f"number of {len(text)} digits")
    return int(text)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


class Fields:
    """One JSON object: ``take`` each key, then ``done``, which refuses the rest. ``where`` is its place in errors."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ArtifactError(f"{where}: {_show(value)}; expected an object")
        self._left: dict[str, Any] = dict(value)
        self.where = where

    def take(self, key: str) -> Any:
        """The value of ``key``, of any type."""
        try:
            return self._left.pop(key)
        except KeyError:
            raise ArtifactError(f"{self.where}: key {key!r} is missing") from None

    def has(self, key: str) -> bool:
        """Whether ``key`` is there: for those that may be left out."""
        return key in self._left

    def left(self) -> tuple[str, ...]:
        """The keys that nobody took yet."""
        return tuple(self._left)

    def text(self, key: str, pattern: str | None = None) -> str:
        """A string that matches ``pattern`` as a whole."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        if pattern is not None and not re.fullmatch(pattern, value, re.ASCII):
            raise self.error(key, value, f"a string that matches {pattern}")
        return value

    def whole(self, key: str, least: int = 0, most: int = 2**48) -> int:
        """An integer from ``least`` to ``most``."""
        return whole(self.take(key), f"{self.where}.{key}", least, most)

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object of any content."""
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return value

    def array(self, key: str, most: int) -> list[Any]:
        """An array of at most ``most`` values."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > most:
            raise self.error(key, value, f"an array of at most {most} values")
        return value

    def texts(self, key: str, pattern: str, most: int = 256) -> tuple[str, ...]:
        """An array of strings that match ``pattern``."""
        values = self.array(key, most)
        for value in values:
            if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
                raise self.error(key, value, f"strings that match {pattern}")
        return tuple(values)

    def done(self) -> None:
        """Raises where keys are left that nobody took."""
        if self._left:
            names = ", ".join(repr(key[:80]) for key in sorted(self._left)[:5])
            raise ArtifactError(f"{self.where}: unknown key {names}")

    def error(self, key: str, value: object, expected: str) -> ArtifactError:
        """The error for a wrong value of ``key``."""
        return ArtifactError(f"{self.where}.{key}: {_show(value)}; expected {expected}")


def whole(value: object, where: str, least: int = 0, most: int = 2**48) -> int:
    """``value`` as an integer from ``least`` to ``most``; ``True`` and ``1.0`` are none."""
    if type(value) is not int or not least <= value <= most:
        raise ArtifactError(f"{where}: {_show(value)}; expected a whole number from {least} to {most}")
    return value


def _show(value: object) -> str:
    if isinstance(value, (dict, list)):
        return f"a JSON {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
