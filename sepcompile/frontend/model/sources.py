"""What a user may hand in as a model, brought to one form: config, the Keras that wrote it, and its weights.

A ``.keras`` archive, a legacy ``.h5`` or ``.hdf5`` file, the JSON of ``to_json()`` (a file, text or dict) or a live
model, recognised by its methods: Keras is never imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcompile.errors import ConfigError, SepcompileError, WeightError
from sepcompile.frontend import jsontext
from sepcompile.frontend.classes import module_generation
from sepcompile.frontend.containers import read_file
from sepcompile.frontend.hdf5 import File, Group
from sepcompile.frontend.model import stores
from sepcompile.frontend.model.archive import MAX_BYTES, read_archive
from sepcompile.frontend.model.flatten import MAX_NESTING, MODEL_CLASSES, is_model_config
from sepcompile.frontend.values import plain, show
from sepcompile.ir.stages import Origin

ARCHIVES, LEGACY = (".keras",), (".h5", ".hdf5")
_ENVELOPE = {
    "module", "class_name", "config", "registered_name", "build_config", "compile_config", "keras_version", "backend",
    "name", "shared_object_id",
}  # fmt: skip


@dataclass(frozen=True)
class ModelSource:
    """A model as found. ``hint`` is "keras2" where a module says so, ``version`` the Keras that wrote it."""

    label: str
    class_name: str
    config: Any
    store: stores.Store
    hint: str | None = None
    version: str | None = None


def is_model(source: object) -> bool:
    """Whether ``source`` is a model rather than one layer: by its suffix, its class name or its methods."""
    if isinstance(source, str | bytes | bytearray | os.PathLike):
        return _is_model_text(source)
    if isinstance(source, Mapping):
        return is_model_config(source)
    try:
        return not isinstance(source, type) and hasattr(source, "layers") and callable(getattr(source, "get_config", 0))
    except Exception:
        return False


def _is_model_text(source: str | bytes | bytearray | os.PathLike[Any]) -> bool:
    text = source if isinstance(source, bytes | bytearray) else os.fspath(source)
    if isinstance(text, str) and not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        if Path(text).suffix.lower() in ARCHIVES + LEGACY:
            return True
        if Path(text).suffix.lower() != ".json":
            return False
    try:
        return is_model_config(_json(source))
    except ConfigError:
        return False  # the reader of single layers says what is wrong with it


def _json(source: str | bytes | bytearray | os.PathLike[Any]) -> Any:
    if isinstance(source, bytes | bytearray):
        return jsontext.parse(bytes(source), "config")
    text = os.fspath(source)
    if isinstance(text, str) and text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return jsontext.parse(text.lstrip("\ufeff"), "config")
    return jsontext.read(Path(text))


def find_model(source: object, weights: object = None) -> ModelSource:
    """The ``ModelSource`` of whatever the user passed. ``weights`` is the path of a weight file, or None.

    Raises ``ConfigError``, ``WeightError`` or ``UnsupportedError``.
    """
    if isinstance(source, str | bytes | bytearray | os.PathLike):
        found = _from_text(source)
    elif isinstance(source, Mapping):
        found = _from_mapping(plain_model(source), "model config", stores.Drawn(), None)
    else:
        found = _from_live(source)
    if weights is None:
        return found
    return ModelSource(found.label, found.class_name, found.config, weight_file(weights), found.hint, found.version)


def plain_model(source: Mapping[Any, Any]) -> Any:
    """A model's dict as JSON would give it: only plain data, bounded."""
    return plain(dict(source), Origin("model config"), depth=jsontext.MAX_DEPTH, nodes=jsontext.MAX_BYTES)


def _from_text(source: str | bytes | bytearray | os.PathLike[Any]) -> ModelSource:
    text = source if isinstance(source, bytes | bytearray) else os.fspath(source)
    if isinstance(text, str) and not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        path = Path(text)
        if len(text) > 4096 or "\0" in text:
            raise ConfigError(f"model={show(text)}: not a path")
        if path.suffix.lower() in ARCHIVES:
            return _from_archive(path)
        if path.suffix.lower() in LEGACY:
            return _from_legacy(path)
        return _from_mapping(_json(source), path.name, stores.Drawn(), None)
    return _from_mapping(_json(source), "model config", stores.Drawn(), None)


def _from_mapping(value: Any, label: str, store: stores.Store, version: str | None) -> ModelSource:
    if not isinstance(value, dict) or value.get("class_name") not in MODEL_CLASSES:
        name = value.get("class_name") if isinstance(value, dict) else value
        raise ConfigError(f"{label}: class_name={show(name)}: expected a model of class {', '.join(MODEL_CLASSES)}")
    for key in value:
        if key not in _ENVELOPE:
            raise ConfigError(f"{label}: key {show(key)} beside class_name; accepted: {', '.join(sorted(_ENVELOPE))}")
    written = value.get("keras_version", version)
    if written is not None and not isinstance(written, str):
        raise ConfigError(f"{label}: keras_version={show(written)}: expected a text such as '3.15.1'")
    hint = module_generation(value.get("module"))
    return ModelSource(label, value["class_name"], value.get("config"), store, hint, written)


def _from_archive(path: Path) -> ModelSource:
    archive = read_archive(path)
    if archive.weights is None:
        raise WeightError(f"{path.name}: no model.weights.h5 in it")
    root = File(archive.weights, f"{path.name}/model.weights.h5")
    return _from_mapping(archive.config, path.name, stores.Variables(root, named=True), archive.version)


def _from_legacy(path: Path) -> ModelSource:
    root = File(read_bytes(path), path.name)
    attributes = root.attributes()
    text, version = attributes.get("model_config"), attributes.get("keras_version")
    if not isinstance(text, str):
        raise ConfigError(
            f"{path.name}: no model_config in it; a file of weights alone goes into weights=, beside the model's JSON"
        )
    config = jsontext.parse(text, f"{path.name}: model_config")
    group = root.group("model_weights")
    if group is None:
        raise WeightError(f"{path.name}: no group model_weights in it")
    return _from_mapping(config, path.name, stores.Legacy(group), version if isinstance(version, str) else None)


def read_bytes(path: Path) -> bytes:
    """A file of at most ``MAX_BYTES``."""
    try:
        if not path.is_file():  # a device or a pipe would never end
            raise ConfigError(f"{path}: not a file; expected a .h5 file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as cause:
        if isinstance(cause, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {show(str(cause))}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path.name}: more than {MAX_BYTES} bytes")
    return data


def weight_file(weights: object) -> stores.Store:
    """Weights apart from their model: .weights.h5 (a variable tree), .h5 (legacy groups), .npz or .safetensors."""
    if not isinstance(weights, str | os.PathLike) or not isinstance(text := os.fspath(weights), str):
        raise WeightError(f"weights={show(weights)}: expected the path of a .h5, .npz or .safetensors file")
    path = Path(text)
    if path.suffix.lower() in ARCHIVES:
        return _from_archive(path).store
    if path.suffix.lower() in LEGACY:
        return _weight_group(File(read_bytes(path), path.name))
    return stores.Named(read_file(path), path.name)


def _weight_group(root: Group) -> stores.Store:
    inner = root.group("model_weights")
    if inner is not None:
        return stores.Legacy(inner)
    if "layer_names" in root.attributes() or "layer_names0" in root.attributes():
        return stores.Legacy(root)
    if root.group("layers") is not None:
        return stores.Variables(root, named=False)
    raise WeightError(f"{root.raw.label}: neither layer_names nor a group layers in it: not weights of Keras")


# ---- live models ---------------------------------------------------------------------------------------------------


def _from_live(model: Any) -> ModelSource:
    label = "model object"
    cls = type(model)
    try:
        config = model.get_config()
        layers = dict(_live_layers(model, "", 0))
    except SepcompileError:
        raise
    except Exception as cause:
        raise ConfigError(f"{label}: {cls.__name__} cannot be read as a model: {show(str(cause))}") from None
    if not isinstance(config, Mapping):
        raise ConfigError(f"{label}: get_config() returned {show(config)}; expected a dict")
    names = [base.__name__ for base in cls.__mro__ if base.__name__ in MODEL_CLASSES]
    if not names or (names[0] == "Model" and "layers" not in config):
        raise ConfigError(f"{label}: {show(cls.__name__)}: expected a Sequential or Functional model")
    module = cls.__module__ if isinstance(cls.__module__, str) else ""
    version = getattr(sys.modules.get(_library(cls)), "__version__", None)
    return ModelSource(
        label,
        names[0],
        plain_model(config),
        stores.Live(layers),
        module_generation(module),
        version if isinstance(version, str) else None,
    )


def _library(cls: type) -> str:
    """The root, keras or tf_keras, module of the first base class that is Keras's own."""
    roots = (str(base.__module__).partition(".")[0] for base in cls.__mro__)
    return next((root for root in roots if root in ("keras", "tf_keras")), "keras")


def _live_layers(model: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_NESTING:
        raise ConfigError("model object: models nested deeper than {MAX_NESTING} levels")
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        yield path, layer
        if hasattr(layer, "layers") and callable(getattr(layer, "get_config", None)):
            yield from _live_layers(layer, f"{path}/", depth + 1)
