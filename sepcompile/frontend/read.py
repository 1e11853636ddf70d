"""``read_layer``: one Keras layer, in any form, as a program with its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import ConfigError
from sepcompile.frontend.build import build_program, convolution_stages, nhwc_sizes, stages_after
from sepcompile.frontend.generation import Generation, detect
from sepcompile.frontend.inputs import find_shape
from sepcompile.frontend.layers import LayerConfig, origin, read_config
from sepcompile.frontend.rconfig import from_r
from sepcompile.frontend.sources import Source, find
from sepcompile.frontend.values import at, fail, show
from sepcompile.frontend.weights import Slot, load, slots
from sepcompile.ir.stages import Program, Shape
from sepcompile.ir.verify import verify_weights


@dataclass(frozen=True)
class ImportedLayer:
    """A layer as the compiler takes it.

    ``weights`` are float32 in the IR's shapes: depthwise_kernel (kh, kw, C, m), pointwise_kernel (C*m, F), bias (F,),
    prelu_alpha (H|1, W|1, C|1). ``weights_drawn`` says that they came from the initializers. ``generation`` is
    "keras2", "keras3", "r" or "unknown", ``keras_version`` the version as far as it was stated or found. ``config`` is
    the layer's arguments as plain data; ``ignored`` the fields without effect at inference, so that between the two no
    key of the source is lost. ``notes`` are sentences for the user.
    """

    program: Program
    weights: dict[str, NDArray[np.float32]]
    weights_drawn: bool
    generation: str
    keras_version: str | None
    config: dict[str, Any]
    ignored: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """A layer before its weights: what a reader of whole models needs to combine layers."""

    layer: LayerConfig
    generation: Generation
    input_shape: Shape
    source: Source
    weights: object
    notes: tuple[str, ...]


def read_layer(
    layer: object,
    *,
    input_shape: object = None,
    weights: object = None,
    keras_version: object = None,
    seed: int = 0,
) -> ImportedLayer:
    """Reads a SeparableConv1D/2D or DepthwiseConv1D/2D layer of Keras 2, Keras 3 or R.

    ``layer`` is a config dict (``get_config()`` or ``{"class_name", "config"}``), JSON text, the path of a JSON file or
    a live layer object. ``input_shape`` has the batch first, None when dynamic; it may be left out where the source
    says it. ``weights``: see ``frontend.weights``. ``keras_version`` ("2", "3", "3.15") states what the source does not
    say; one that contradicts it is an error. ``seed`` is for weights that are drawn.

    Raises ``ConfigError``, ``UnsupportedError`` or ``WeightError``, never anything else, for whatever is passed.
    """
    parsed = parse_layer(layer, input_shape=input_shape, keras_version=keras_version)
    program = build_program(parsed.layer, parsed.input_shape)
    wanted = layer_slots(parsed.layer, parsed.input_shape)
    given = _from_keras_file(weights, parsed) if weights is not None else parsed.weights
    arrays, drawn = load(given, wanted, parsed.layer.where, checked_seed(seed))
    verify_weights(program, arrays)
    notes = parsed.notes
    if drawn:
        notes = (*notes, f"{parsed.layer.where}: no weights were given; they are drawn with seed {seed}")
    return ImportedLayer(
        program=program,
        weights=arrays,
        weights_drawn=drawn,
        generation=parsed.generation.name,
        keras_version=parsed.generation.text,
        config=parsed.layer.to_config(),
        ignored=_ignored(parsed),
        notes=notes,
    )


def parse_layer(layer: object, *, input_shape: object = None, keras_version: object = None) -> Parsed:
    """The checked layer, its generation and its input shape; no weights are read or drawn yet."""
    source = find(layer, input_shape)
    generation = detect(
        source.config, stated=keras_version, found=source.version, hint=source.hint, label=_label(source)
    )
    config = from_r(source.config) if generation.name == "r" else dict(source.config)
    weights = source.weights
    if config.get("weights", "") is None:
        # Arrays were taken out when the source was read; only the key remains, for the check of known keys.
        del config["weights"]
    where = origin(source.cls, config, source.label)
    checked = read_config(source.cls, config, generation, where)
    shape, notes = find_shape(input_shape, config, dict(source.surroundings), checked)
    return Parsed(checked, generation, shape, source, weights, (*notes, *checked.activation.notes))


def _from_keras_file(weights: object, parsed: Parsed) -> object:
    """``weights``, or the layer's arrays where it is the path of a file that Keras wrote."""
    from sepcompile.frontend.model.single import SUFFIXES, layer_arrays

    path = os.fspath(weights) if isinstance(weights, str | os.PathLike) else None
    if not isinstance(path, str) or Path(path).suffix.lower() not in SUFFIXES:
        return weights
    name = parsed.source.config.get("name")
    given = name if isinstance(name, str) else None
    return layer_arrays(path, parsed.layer.cls.name, given, parsed.layer.where)


def layer_slots(layer: LayerConfig, input_shape: Shape, prefix: str = "") -> tuple[Slot, ...]:
    """The weights of a layer for an input shape (Keras's, with batch), in ``get_weights()`` order."""
    sizes = nhwc_sizes(input_shape, layer.channels_first)
    return slots(layer, sizes[2], stages_after(convolution_stages(layer, sizes), sizes), prefix)


def _label(source: Source) -> str:
    return str(origin(source.cls, source.config, source.label))


def checked_seed(seed: object) -> int:
    """A seed for weights that are drawn. Raises ``ConfigError``."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed={show(seed)}: expected an integer >= 0")
    return seed


def _ignored(parsed: Parsed) -> dict[str, Any]:
    """Everything of the source that is not in ``LayerConfig.to_config``, by name."""
    result: dict[str, Any] = dict(parsed.layer.ignored)
    result |= {f"activation.{key}": value for key, value in parsed.layer.activation.ignored}
    for key, value in parsed.source.surroundings:
        result[key] = _surrounding(key, value, parsed)
    shapes = {k: parsed.source.config.get(k) for k in ("input_shape", "batch_input_shape", "batch_size")}
    return result | {key: value for key, value in shapes.items() if value is not None}


def _surrounding(key: str, value: Any, parsed: Parsed) -> Any:
    """An envelope's key as it is recorded, checked as far as it says something about the layer."""
    where = at(parsed.layer.where, key)
    if key == "name":
        unnamed = parsed.source.config.get("name") is None
        if not isinstance(value, str) or (value != parsed.layer.name and not unnamed):
            fail(where, value, f"the name in the config, {parsed.layer.name!r}")
    if key == "inbound_nodes" and not isinstance(value, list):
        fail(where, value, "a list")
    if key == "compile_config" and not isinstance(value, dict):
        fail(where, value, "a dict")
    return value
