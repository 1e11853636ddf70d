"""A model's config as a graph: Sequential and Functional, nested models inlined, shared layers called several times."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.model.graph import Graph, ModelLayer, Node, Ref
from sepcompile.frontend.model.history import Call, Place, read_calls, read_places
from sepcompile.frontend.values import at, fail, mapping, plain, printable, show
from sepcompile.ir.stages import Origin

MODEL_CLASSES = ("Sequential", "Functional", "Model")
MAX_LAYERS = 10_000
MAX_NESTING = 8
# After inlining: a model that calls a model twice that calls a model twice ... doubles at every level.
MAX_CALLS = 20_000
# Layers, calls and tensors read, once per use of the model they are in: models may multiply without any layer.
MAX_READ = 60_000
_LAYER_KEYS = {
    "module", "class_name", "config", "registered_name", "build_config", "name", "inbound_nodes", "shared_object_id",
    "compile_config", "quantization_config",
}  # fmt: skip
_IDLE_OPTIONS = {"mask", "training"}

Declared = dict[Ref, object]


def is_model_config(value: object) -> bool:
    """Whether a dict is a serialized Sequential or Functional model."""
    return isinstance(value, Mapping) and value.get("class_name") in MODEL_CLASSES


def flatten(class_name: str, config: object, label: str) -> tuple[Graph, Declared]:
    """The graph, without shapes, and the shapes that the config declares for its tensors.

    Raises ``ConfigError`` for anything that is not a model's config and ``UnsupportedError`` for a subclassed model.
    """
    reader = _Reader(label)
    where = Origin(label)
    name = _model_name(config, class_name)
    refs = reader.model(class_name, config, _Around(), None, where)
    return Graph(name, label, tuple(reader.nodes), tuple(refs)), reader.declared


def snake_case(name: str) -> str:
    """A class's name as Keras 3's weight files have it: ``SeparableConv2D`` is ``separable_conv2d``."""
    bare = re.sub(r"\W+", "", name)
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", bare)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower()


def _model_name(config: object, class_name: str) -> str:
    name = config.get("name") if isinstance(config, Mapping) else None
    return name if isinstance(name, str) and 0 < len(name) <= 1024 else class_name.lower()


@dataclass(frozen=True)
class _Around:
    """Where a model stands: the names around it, and its place in a weight file."""

    names: tuple[str, ...] = ()
    stored_at: str = ""

    def inside(self, layer: ModelLayer) -> _Around:
        return _Around(layer.names, f"{layer.stored_at}/")


@dataclass
class _Functional:
    """A Functional model while it is read."""

    layers: dict[str, ModelLayer]
    calls: dict[str, list[Call]]
    made: dict[Place, Ref] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)


class _Reader:
    def __init__(self, label: str) -> None:
        self.label = label
        self.nodes: list[Node] = []
        self.declared: Declared = {}
        self.read = 0

    def model(
        self, class_name: str, config: object, around: _Around, inputs: list[Ref] | None, where: Origin
    ) -> list[Ref]:
        """Adds a model's calls; ``inputs`` are the tensors a nested model is called with. Returns its outputs."""
        if len(around.names) > MAX_NESTING:
            raise ConfigError(f"{where}: models nested deeper than {MAX_NESTING} levels")
        if class_name == "Sequential":
            return self._sequential(config, around, inputs, where)
        fields = mapping(config, where)
        if "layers" not in fields or "output_layers" not in fields:
            what = "a subclassed model, whose graph is code"
            raise UnsupportedError(f"{where}: {what}; accepted: Sequential, Functional")
        return self._functional(fields, around, inputs, where)

    # ---- Sequential ----

    def _sequential(self, config: object, around: _Around, inputs: list[Ref] | None, where: Origin) -> list[Ref]:
        fields = config if isinstance(config, dict) else {"layers": config}  # the first Keras 2 wrote the list alone
        layers = list(self._layers(fields.get("layers"), around, where).values())
        if inputs is not None and len(inputs) != 1:
            raise ConfigError(f"{where}: a Sequential model called with {len(inputs)} tensors; expected one")
        refs = inputs
        for layer in layers:
            if layer.class_name == "InputLayer":
                refs = refs if refs is not None else self._add(layer, [], ())
                continue
            if refs is None:
                refs = self._add(_input_for(layer, fields, around), [], ())
            refs = self._call(layer, refs, (), around, None)[:1]
        if refs is None:
            raise ConfigError(f"{where}: a Sequential model without layers")
        return refs

    # ---- Functional ----

    def _functional(
        self, fields: dict[str, Any], around: _Around, inputs: list[Ref] | None, where: Origin
    ) -> list[Ref]:
        layers = self._layers(fields["layers"], around, where)
        model = _Functional(layers, {})
        for layer, item in zip(layers.values(), fields["layers"], strict=True):
            calls = read_calls(item.get("inbound_nodes", []), at(layer.where, "inbound_nodes"))
            model.calls[layer.name] = calls
            self._count(sum(1 + len(call.places) for call in calls))
        starts = read_places(fields.get("input_layers", []), at(where, "input_layers"))
        ends = read_places(fields["output_layers"], at(where, "output_layers"))
        model.offsets = self._offsets(model, ends)
        self._inputs(model, starts, inputs, where)
        self._run(model, around)
        return [self._made(model, place, at(where, "output_layers")) for place in ends]

    def _inputs(self, model: _Functional, starts: list[Place], inputs: list[Ref] | None, where: Origin) -> None:
        if inputs is not None and len(inputs) != len(starts):
            raise ConfigError(f"{where}: called with {len(inputs)} tensors; it has {len(starts)} inputs")
        for number, place in enumerate(starts):
            layer = model.layers.get(place.layer)
            if layer is None or model.calls[place.layer]:
                fail(at(where, "input_layers"), place.layer, "an InputLayer of this model")
            refs = [inputs[number]] if inputs is not None else self._add(layer, [], ())
            model.made[Place(place.layer, 0, 0)] = refs[0]
        for name, calls in model.calls.items():
            # An InputLayer that input_layers does not name (a nested model's that is not called).
            if not calls and Place(name, 0, 0) not in model.made and model.layers[name].class_name == "InputLayer":
                model.made[Place(name, 0, 0)] = self._add(model.layers[name], [], ())[0]

    def _offsets(self, model: _Functional, ends: list[Place]) -> dict[str, int]:
        """A nested Functional model's own node comes first in Keras's count, so that its calls count from 1."""
        places = [place for calls in model.calls.values() for call in calls for place in call.places]
        highest: dict[str, int] = {}
        for place in [*places, *ends]:
            highest[place.layer] = max(highest.get(place.layer, 0), place.call)
        nested = [name for name, layer in model.layers.items() if layer.class_name in MODEL_CLASSES]
        return {name: 1 for name in nested if highest.get(name, 0) >= max(len(model.calls[name]), 1)}

    def _run(self, model: _Functional, around: _Around) -> None:
        """Every call once its inputs are there, in the order of the config where that is free."""
        waiting: dict[Place, list[tuple[str, int]]] = {}
        missing: dict[tuple[str, int], int] = {}
        ready: deque[tuple[str, int]] = deque()
        for name, calls in model.calls.items():
            for number, call in enumerate(calls):
                wanted = {self._key(model, place) for place in call.places} - set(model.made)
                missing[name, number] = len(wanted)
                for key in wanted:
                    waiting.setdefault(key, []).append((name, number))
                if not wanted:
                    ready.append((name, number))
        while ready:
            name, number = ready.popleft()
            call = model.calls[name][number]
            inputs = [self._made(model, place, model.layers[name].where) for place in call.places]
            outputs = self._call(model.layers[name], inputs, call.options, around, call)
            for index, ref in enumerate(outputs):
                self._publish(model, Place(name, number, index), ref, waiting, missing, ready)

    def _publish(
        self,
        model: _Functional,
        key: Place,
        ref: Ref,
        waiting: dict[Place, list[tuple[str, int]]],
        missing: dict[tuple[str, int], int],
        ready: deque[tuple[str, int]],
    ) -> None:
        model.made[key] = ref
        for reader in waiting.pop(key, []):
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)

    def _key(self, model: _Functional, place: Place) -> Place:
        """A place with the call counted from 0."""
        return replace(place, call=place.call - model.offsets.get(place.layer, 0))

    def _made(self, model: _Functional, place: Place, where: Origin) -> Ref:
        ref = model.made.get(self._key(model, place))
        if ref is None:
            raise ConfigError(
                f"{where}: reads output {place.output} of call {place.call} of {show(place.layer)}, "
                "which does not exist or depends on itself"
            )
        return ref

    # ---- calls and layers ----

    def _call(
        self,
        layer: ModelLayer,
        inputs: list[Ref],
        options: tuple[tuple[str, Any], ...],
        around: _Around,
        call: Call | None,
    ) -> list[Ref]:
        for ref, shape in zip(inputs, call.shapes if call else (), strict=False):
            if shape is not None:
                self.declared.setdefault(ref, shape)
        plain_call = not any(key not in _IDLE_OPTIONS or value not in (False, None) for key, value in options)
        if layer.class_name in MODEL_CLASSES and plain_call:
            return self.model(layer.class_name, layer.config, around.inside(layer), inputs, layer.where)
        return self._add(layer, inputs, options)

    def _add(self, layer: ModelLayer, inputs: list[Ref], options: tuple[tuple[str, Any], ...]) -> list[Ref]:
        if len(self.nodes) >= MAX_CALLS:
            raise ConfigError(f"{self.label}: more than {MAX_CALLS} calls of layers")
        self.nodes.append(Node(layer, tuple(inputs), options))
        number = len(self.nodes) - 1
        # Which outputs there are is only known to the layer's code; 8 suffice for every layer of Keras.
        return [Ref(number, index) for index in range(8)] if layer.class_name != "InputLayer" else [Ref(number)]

    def _count(self, read: int) -> None:
        self.read += read
        if self.read > MAX_READ:
            raise ConfigError(f"{self.label}: more than {MAX_READ} layers, calls and tensors, nested models repeated")

    def _layers(self, value: object, around: _Around, where: Origin) -> dict[str, ModelLayer]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LAYERS:
            fail(at(where, "layers"), value, f"a list of 1 to {MAX_LAYERS} layers")
        found: dict[str, ModelLayer] = {}
        used: dict[str, int] = {}
        self._count(len(value))
        for number, item in enumerate(value):
            layer = _read_layer(item, around, used, at(where, f"layers.{number}"), self.label)
            if layer.name in found:
                fail(at(where, f"layers.{number}"), layer.name, "a name that no other layer of the model has")
            found[layer.name] = layer
        return found


def _layer_name(item: Mapping[str, Any]) -> str:
    config = item.get("config")
    name = item.get("name", config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) else ""


def _read_layer(item: object, around: _Around, used: dict[str, int], where: Origin, label: str) -> ModelLayer:
    fields = mapping(item, where)
    for key in fields:
        if key not in _LAYER_KEYS:
            fail(at(where, printable(key)), fields[key], f"only the keys {', '.join(sorted(_LAYER_KEYS))}")
    class_name, config = fields.get("class_name"), fields.get("config")
    if not isinstance(class_name, str) or not 0 < len(class_name) <= 200:
        fail(at(where, "class_name"), class_name, "the name of a class")
    # Before 2.0, Keras wrote a nested Sequential's config as the list of its layers.
    if not isinstance(config, dict) and not (class_name == "Sequential" and isinstance(config, list)):
        fail(at(where, "config"), config, "a dict with the layer's arguments")
    name = _layer_name(fields) or f"{snake_case(class_name)}_{sum(used.values())}"
    if len(name) > 1024:
        fail(at(where, "name"), name, "a name of at most 1024 characters")
    short = class_name.rsplit(">", 1)[-1]
    count = used.get(snake_case(short), 0)
    used[snake_case(short)] = count + 1
    stored = f"{around.stored_at}layers/{snake_case(short)}" + (f"_{count}" if count else "")
    names = (*around.names, name)
    build = fields.get("build_config")
    return ModelLayer(
        names=names,
        class_name=class_name,
        config=config if isinstance(config, dict) else {"layers": config},
        stored_at=stored,
        where=Origin(f"{label}: {printable(class_name)}", printable("/".join(names))),
        module=fields.get("module"),
        registered_name=fields.get("registered_name"),
        built=build.get("input_shape") if isinstance(build, dict) else None,
    )


def _input_for(layer: ModelLayer, fields: Mapping[str, Any], around: _Around) -> ModelLayer:
    """An InputLayer for a Sequential model that has none."""
    shape = layer.config.get("batch_input_shape", fields.get("build_input_shape", layer.built))
    return ModelLayer(
        names=(*around.names, "input"),
        class_name="InputLayer",
        config={"batch_shape": plain(shape, layer.where)},
        stored_at="",
        where=layer.where,
    )
