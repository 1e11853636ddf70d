"""Strict JSON: what Python's parser lets through and a config cannot mean is refused.

Duplicate keys, NaN and Infinity, numbers beyond float64 (1e400), integers beyond 64 bits, deep nesting, texts over the
size limit and text that is not UTF-8 are all ``ConfigError``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sepcompile.errors import ConfigError

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 64
MAX_DIGITS = 20


def parse(text: str | bytes, where: str) -> Any:
    """The value that ``text`` holds; ``where`` begins every message. Raises ``ConfigError``."""
    decoded = _decode(text, where)
    _check_depth(decoded, where)
    try:
        return json.loads(
            decoded,
            object_pairs_hook=lambda pairs: _object(pairs, where),
            parse_constant=lambda name: _refuse(where, f"the constant {name}"),
            parse_float=lambda digits: _float(digits, where),
            parse_int=lambda digits: _int(digits, where),
        )
    except (ValueError, RecursionError) as cause:
        if isinstance(cause, ConfigError):
            raise
        raise ConfigError(f"{where}: not JSON: {cause}") from None


def read(path: Path) -> Any:
    """``parse`` of a file of at most ``MAX_BYTES``."""
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: not a file; expected a JSON file with a layer config")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as cause:
        if isinstance(cause, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {cause}") from None
    return parse(data, path.name)


def _decode(text: str | bytes, where: str) -> str:
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: JSON of more than {MAX_BYTES} bytes; a layer config is smaller")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{where}: not UTF-8 at byte {cause.start}") from None


def _check_depth(text: str, where: str) -> None:
    """Before parsing, because the parser recurses."""
    depth, inside, escaped = 0, False, False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{where}: JSON nested deeper than {MAX_DEPTH} levels")
        elif character in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            _refuse(where, f"the key {key[:80]!r} twice in one object")
        result[key] = value
    return result


def _float(digits: str, where: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refuse(where, f"the number {digits[:40]}, which is beyond float64")
    return value


def _int(digits: str, where: str) -> int:
    if len(digits) > MAX_DIGITS:
        _refuse(where, f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse(where: str, what: str) -> None:
    raise ConfigError(f"{where}: JSON with {what}")
