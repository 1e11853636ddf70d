"""Serialized Keras objects: one reader for the forms that initializers, regularizers and constraints share.

Accepted: a name, ``{"class_name", "config"}`` with or without ``module`` and ``registered_name``, and
``{"module": "builtins", "class_name": "function", "config": name}``. Names are compared with tables, never imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sepcompile.errors import UnsupportedError
from sepcompile.frontend.values import at, fail, mapping, show
from sepcompile.ir.stages import Origin

Reader = Callable[[object, Origin], Any]

_WRAPPER_KEYS = frozenset({"module", "class_name", "config", "registered_name", "build_config", "shared_object_id"})
_MODULE = re.compile(
    r"builtins|(?:(?:tf|tensorflow)\.(?:compat\.v[12]\.|python\.)?)?(?:tf_)?keras(?:\.[a-z_0-9]+){0,6}|tensorflow\.python"
    r"(?:\.[a-z_0-9]+){1,4}",
    re.ASCII,
)


@dataclass(frozen=True)
class Wrapped:
    """A class or function name with the config of its object."""

    class_name: str
    config: dict[str, Any]
    is_function: bool = False


def unwrap(value: object, where: Origin) -> Wrapped:
    """The name and config of a string or a serialized dict; raises for unknown wrapper keys and lambdas."""
    if isinstance(value, str):
        return Wrapped(value, {})
    if isinstance(value, dict) and set(value) == {"value"}:  # what a live layer's get_config() has of a lambda
        raise UnsupportedError(f"{where} is a Python function; code is not compiled")
    if not isinstance(value, dict) or "class_name" not in value:
        fail(where, value, "a name or a dict with class_name and config")
    for key in value:
        if key not in _WRAPPER_KEYS:
            fail(at(where, key), value[key], f"only the keys {', '.join(sorted(_WRAPPER_KEYS))}")
    name, config = value["class_name"], value.get("config")
    _check_origin(value, where)
    if name == "function":
        inner = config if isinstance(config, str) else value.get("registered_name")
        if not isinstance(inner, str):
            fail(at(where, "config"), config, "the function's name")
        return Wrapped(inner, {}, is_function=True)
    if not isinstance(name, str):
        fail(at(where, "class_name"), name, "a string")
    if isinstance(config, str) and config == name:
        return Wrapped(name, {})
    return Wrapped(name, {} if config is None else mapping(config, at(where, "config")))


def _check_origin(value: Mapping[str, Any], where: Origin) -> None:
    name, module = value["class_name"], value.get("module")
    if name in ("__lambda__", "Lambda", "__typespec__", "__tensor__", "__numpy__"):
        raise UnsupportedError(f"{where}.class_name={show(name)}: code and tensors in a config are never evaluated")
    if module is not None and (not isinstance(module, str) or not _MODULE.fullmatch(module)):
        fail(at(where, "module"), module, "null or a module of Keras")
    registered = value.get("registered_name")
    if registered is not None and (not isinstance(registered, str) or ">" in registered.removeprefix("Keras>")):
        raise UnsupportedError(f"{where}.registered_name={show(registered)}: custom objects are not compiled")


@dataclass(frozen=True)
class ObjectClass:
    """A class of a table: its canonical name and a reader with a default for every parameter."""

    name: str
    parameters: Mapping[str, tuple[Any, Reader]]


def read_object(value: object, table: Mapping[str, ObjectClass], where: Origin, what: str) -> Wrapped:
    """A serialized object of ``table`` with every parameter present and checked.

    Raises ``ConfigError`` for an unknown class, an unknown parameter or a value that does not fit.
    """
    wrapped = unwrap(value, where)
    cls = table.get(wrapped.class_name)
    if cls is None:
        names = ", ".join(sorted({entry.name for entry in table.values()}))
        fail(where, wrapped.class_name, f"a Keras {what}: {names}")
    inner = at(where, "config")
    for key in wrapped.config:
        if key not in cls.parameters:
            known = ", ".join(cls.parameters) or "none"
            fail(at(inner, key), wrapped.config[key], f"no such parameter; {cls.name} has: {known}")
    given = wrapped.config
    config = {key: read(given.get(key, default), at(inner, key)) for key, (default, read) in cls.parameters.items()}
    return Wrapped(cls.name, config)


def snake_case(name: str) -> str:
    """``GlorotUniform`` as ``glorot_uniform``, the way Keras derives its function names."""
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", partly).lower()
