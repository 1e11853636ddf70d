"""What a user may hand in as a layer, brought to one form: class, config, what surrounds it, and live weights.

A dict (``get_config()`` or ``{"class_name", "config"}``), JSON text, the path of a JSON file, or a live Keras layer of
either generation, recognised by its methods: Keras is never imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcompile.errors import ConfigError, SepcompileError, UnsupportedError
from sepcompile.frontend import jsontext
from sepcompile.frontend.classes import CLASSES, LayerClass, check_registered_name, module_generation, resolve
from sepcompile.frontend.keys import ENVELOPE_KEYS
from sepcompile.frontend.rconfig import envelope_from_r
from sepcompile.frontend.values import plain, show
from sepcompile.ir.stages import Origin


@dataclass(frozen=True)
class Source:
    """A layer as found. ``config`` is plain data without ``weights``, which are in ``weights`` as given.

    ``hint`` is the generation that the class name or module tells ("keras2", "r" or None), ``version`` the version of
    the library a live layer comes from, ``surroundings`` the envelope's keys beside class_name and config.
    """

    label: str
    cls: LayerClass
    config: dict[str, Any]
    hint: str | None = None
    version: str | None = None
    weights: object = None
    surroundings: tuple[tuple[str, Any], ...] = ()


def find(layer: object, input_shape: object = None) -> Source:
    """The ``Source`` of whatever the user passed; raises ``ConfigError`` or ``UnsupportedError``.

    ``input_shape`` only helps to tell 1D from 2D where a bare config leaves it open.
    """
    if isinstance(layer, str | bytes | bytearray | os.PathLike):
        return _from_text(layer, input_shape)
    if isinstance(layer, Mapping):
        return _from_mapping(layer, "config", input_shape)
    if _is_live(layer):
        return _from_live(layer)
    raise ConfigError(
        f"layer={show(layer)}: expected a config dict, JSON text, the path of a JSON file or a Keras layer object"
    )


def _from_text(layer: str | bytes | bytearray | os.PathLike[Any], input_shape: object) -> Source:
    if isinstance(layer, bytes | bytearray):
        return _from_json(jsontext.parse(bytes(layer), "config"), "config", input_shape)
    text = os.fspath(layer)
    if not isinstance(text, str):
        raise ConfigError(f"layer={show(layer)}: expected a text path")
    if not isinstance(layer, os.PathLike) and text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return _from_json(jsontext.parse(text.lstrip("\ufeff"), "config"), "config", input_shape)
    if len(text) > 4096 or "\0" in text:
        raise ConfigError(f"layer={show(text)}: neither JSON text nor a path")
    path = Path(text)
    if path.suffix in (".keras", ".h5", ".hdf5", ".pb"):
        raise UnsupportedError(f"layer={show(text)}: a model file, not one layer; accepted: a JSON file with one layer")
    if _is(path, Path.is_dir):
        raise ConfigError(f"layer={show(text)}: a folder; expected JSON text or the path of a file")
    if path.suffix != ".json" and not _is(path, Path.is_file):
        raise ConfigError(f"layer={show(text)}: neither JSON text (an object) nor the path of a file")
    return _from_json(jsontext.read(path), path.name, input_shape)


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _from_json(value: object, label: str, input_shape: object) -> Source:
    if not isinstance(value, dict):
        raise ConfigError(f"{label}: JSON of a {type(value).__name__}; expected an object with a layer's config")
    return _from_mapping(value, label, input_shape)


def _from_mapping(given: Mapping[Any, Any], label: str, input_shape: object) -> Source:
    try:
        layer = dict(given)
    except Exception as cause:
        raise ConfigError(f"{label}: a mapping that cannot be read: {show(cause)}") from None
    if "class_name" not in layer and "config" not in layer:
        config, weights = _split_weights(layer, label)
        return Source(label, _deduce(config, label, input_shape), config, weights=weights)
    for key in layer:
        if key not in ENVELOPE_KEYS:
            raise ConfigError(f"{label}: key {show(key)} beside class_name; accepted: {', '.join(ENVELOPE_KEYS)}")
    inner = layer.pop("config", None)
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{label}: config={show(inner)}: expected a dict with the layer's arguments")
    config, weights = _split_weights(dict(inner), label)
    outside, is_r = envelope_from_r({key: plain(value, Origin(label, field=key)) for key, value in layer.items()})
    if "class_name" not in outside:
        hint = "r" if is_r else None
        return Source(label, _deduce(config, label, input_shape), config, hint, None, weights, _listed(outside))
    resolved = resolve(outside.pop("class_name"), outside.get("module"), label)
    check_registered_name(outside.get("registered_name"), resolved.cls, label)
    hint = "r" if is_r else resolved.generation
    return Source(label, resolved.cls, config, hint, None, weights, _listed(outside))


def _listed(outside: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, value) for key, value in outside.items() if value is not None))


def _split_weights(config: dict[Any, Any], label: str) -> tuple[dict[str, Any], object]:
    """R's and Keras 2's ``weights`` argument holds arrays, which are not plain data."""
    weights = config.get("weights")
    if isinstance(weights, Mapping) and not weights:
        weights = None
    rest = {key: (None if key == "weights" else value) for key, value in config.items()}
    return plain(rest, Origin(label)), weights


# ---- bare configs: which class? ------------------------------------------------------------------------------------


def _deduce(config: Mapping[str, Any], label: str, input_shape: object) -> LayerClass:
    """The class of a bare ``get_config()``: filters make it separable, the lengths of its lists give the rank."""
    if "filters" in config and "kernel_initializer" in config and "depthwise_initializer" not in config:
        raise ConfigError(f"{label}: a bare config with kernel_initializer may be a Conv2D's; give class_name with it")
    if "kernel_size" not in config:
        raise ConfigError(f"{label}: neither class_name nor kernel_size; expected the config of {', '.join(CLASSES)}")
    ranks = _ranks(config, input_shape)
    if len(ranks) != 1:
        found = f"its fields say {sorted(ranks)} axes" if ranks else "nothing in it says how many axes"
        raise ConfigError(f"{label}: 1D or 2D? {found}; pass {{'class_name': ..., 'config': ...}} or input_shape")
    separable = "filters" in config
    rank = ranks.pop()
    found_class = next((cls for cls in CLASSES.values() if cls.rank == rank and cls.separable == separable), None)
    if found_class is None:
        raise ConfigError(f"{label}: kernel_size={show(config['kernel_size'])} has {rank} axes; expected 1 or 2")
    return found_class


def _ranks(config: Mapping[str, Any], input_shape: object) -> set[int]:
    found: set[int] = set()
    is_r = any(isinstance(config.get(key), list) for key in ("filters", "depth_multiplier", "use_bias", "padding"))
    for key in ("kernel_size", "strides", "dilation_rate"):
        value = config.get(key)
        if isinstance(value, list) and not (is_r and len(value) == 1):
            found.add(len(value))
    for shape, extra in ((config.get("input_shape"), 1), (config.get("batch_input_shape"), 2), (input_shape, 2)):
        if isinstance(shape, list | tuple):
            found.add(len(shape) - extra)
    if isinstance(config.get("rank"), int):
        found.add(config["rank"])
    return found


# ---- live layers ---------------------------------------------------------------------------------------------------


def _is_live(layer: object) -> bool:
    try:
        return not isinstance(layer, type) and callable(getattr(layer, "get_config", None))
    except Exception:
        return False


def _from_live(layer: Any) -> Source:
    label = "layer object"
    cls = type(layer)
    resolved = resolve(cls.__name__, None, label)
    module = cls.__module__ if isinstance(cls.__module__, str) else ""
    config = _call(layer, "get_config", label)
    if not isinstance(config, Mapping):
        raise ConfigError(f"{label}: get_config() returned {show(config)}; expected a dict")
    weights = _call(layer, "get_weights", label) if hasattr(layer, "get_weights") else None
    shape = _built_shape(layer)
    surroundings = () if shape is None else (("build_config", {"input_shape": shape}),)
    hint = module_generation(module)
    values, _ = _split_weights(dict(config), label)
    version = _library_version(module.partition(".")[0])
    return Source(label, resolved.cls, values, hint, version, weights or None, surroundings)


def _call(layer: Any, method: str, label: str) -> Any:
    try:
        return getattr(layer, method)()
    except SepcompileError:
        raise
    except Exception as cause:
        raise ConfigError(f"{label}: {type(layer).__name__}.{method}() failed: {show(cause)}") from None


def _built_shape(layer: Any) -> list[Any] | None:
    """The shape a live layer was built with; both generations keep it in ``get_build_config()``."""
    try:
        build = layer.get_build_config() if hasattr(layer, "get_build_config") else None
        shape = build.get("input_shape") if isinstance(build, Mapping) else None
        return None if shape is None else [None if size is None else int(size) for size in shape]
    except Exception:
        # An unbuilt layer, or one of an older Keras without the method: the caller asks for input_shape.
        return None


def _library_version(root: str) -> str | None:
    """``__version__`` of the already imported library that a layer's class comes from."""
    module = sys.modules.get(root) if root in ("keras", "tf_keras") else None
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else None
