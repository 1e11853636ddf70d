"""``inbound_nodes`` of both generations: which tensors a call reads, and with which options.

Keras 2 writes ``[[["img", 0, 0, {}]]]``, Keras 3 ``[{"args": [{"class_name": "__keras_tensor__", ...}], ...}]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sepcompile.errors import ConfigError
from sepcompile.frontend.values import at, fail, show
from sepcompile.ir.stages import Origin

# Tensors that one call may read: a Concatenate of a dense network has some hundred.
MAX_TENSORS = 4096
_MAX_DEPTH = 12


@dataclass(frozen=True)
class Place:
    """A tensor as a config names it: a layer, the number of its call and of its output."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True)
class Call:
    """One entry of ``inbound_nodes``; ``shapes`` are those that Keras 3 writes beside its tensors, or None."""

    places: tuple[Place, ...]
    shapes: tuple[object, ...]
    options: tuple[tuple[str, Any], ...]


def read_calls(value: object, where: Origin) -> list[Call]:
    """The calls of one layer."""
    if not isinstance(value, list):
        fail(where, value, "a list of calls")
    return [_Reader(at(where, str(number))).read(call) for number, call in enumerate(value)]


def read_places(value: object, where: Origin) -> list[Place]:
    """``input_layers`` or ``output_layers``: one place, or a list or dict of them."""
    place = _place(value)
    if place is not None:
        return [place]
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or len(items) > MAX_TENSORS:
        fail(where, value, "[layer, call, output], or a list of them")
    found = [_place(item) for item in items]
    if any(item is None for item in found):
        fail(where, value, "[layer, call, output], or a list of them")
    return [item for item in found if item is not None]


def _place(value: object) -> Place | None:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], str):
        return None
    if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value[1:]):
        return None
    return Place(value[0], value[1], value[2])


class _Reader:
    def __init__(self, where: Origin) -> None:
        self.where = where
        self.places: list[Place] = []
        self.shapes: list[object] = []

    def read(self, call: object) -> Call:
        options: dict[str, Any] = {}
        if isinstance(call, dict) and set(call) <= {"args", "kwargs"}:
            extra = self._arguments(call.get("args", []))
            options = {f"argument {number}": item for number, item in enumerate(extra)}
            kwargs = call.get("kwargs", {})
            if not isinstance(kwargs, dict):
                fail(at(self.where, "kwargs"), kwargs, "a dict")
            options |= self._options(kwargs)
        elif isinstance(call, list | dict):
            options = self._keras2(call)
        else:
            fail(self.where, call, "a call with its tensors")
        return Call(tuple(self.places), tuple(self.shapes), tuple(sorted(options.items())))

    def _arguments(self, arguments: object) -> list[Any]:
        """Collects the tensors; returns what else there is, but None."""
        if not isinstance(arguments, list):
            fail(at(self.where, "args"), arguments, "a list")
        return [item for item in arguments if not self._tensors(item, 0) and item is not None]

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {key: item for key, item in kwargs.items() if not self._tensors(item, 0) and item is not None}

    def _tensors(self, value: object, depth: int) -> bool:
        """Whether there are tensors of Keras 3 in ``value``; they are collected."""
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{self.where}: arguments nested deeper than {_MAX_DEPTH} levels")
        if isinstance(value, dict):
            if value.get("class_name") == "__keras_tensor__":
                self._keras3_tensor(value)
                return True
            return self._all(list(value.values()), depth)
        return isinstance(value, list) and self._all(value, depth)

    def _all(self, items: list[Any], depth: int) -> bool:
        found = [self._tensors(item, depth + 1) for item in items]
        return any(found)

    def _keras3_tensor(self, value: dict[str, Any]) -> None:
        config = value.get("config")
        place = _place(config.get("keras_history")) if isinstance(config, dict) else None
        if place is None or not isinstance(config, dict):
            fail(self.where, value, "a __keras_tensor__ with keras_history")
        self._add(place, config.get("shape"))

    def _keras2(self, call: list[Any] | dict[str, Any]) -> dict[str, Any]:
        """A list of [layer, call, output] or [layer, call, output, options], or one of them alone."""
        options: dict[str, Any] = {}
        items = list(call.values()) if isinstance(call, dict) else call
        entries = [items] if items and isinstance(items[0], str) else items
        for entry in entries:
            place = _place(entry[:3]) if isinstance(entry, list) and 3 <= len(entry) <= 4 else None
            if place is None:
                fail(self.where, entry, "[layer, call, output, options]")
            self._add(place, None)
            extra = entry[3] if len(entry) == 4 else {}
            if not isinstance(extra, dict):
                fail(self.where, extra, "a dict of options")
            options |= {key: item for key, item in extra.items() if item is not None and not self._keras2_tensor(item)}
        return options

    def _keras2_tensor(self, value: object) -> bool:
        """An option that is a tensor: [layer, call, output]."""
        place = _place(value)
        if place is not None:
            self._add(place, None)
        return place is not None

    def _add(self, place: Place, shape: object) -> None:
        if len(self.places) >= MAX_TENSORS:
            raise ConfigError(f"{self.where}: more than {MAX_TENSORS} tensors, the last {show(place.layer)}")
        self.places.append(place)
        self.shapes.append(shape)
