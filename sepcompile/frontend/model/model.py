"""``read_model``: a model in any form, with the blocks that can be compiled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sepcompile.errors import ConfigError, SepcompileError
from sepcompile.frontend.build import program_name
from sepcompile.frontend.model.blocks import Block, find_blocks
from sepcompile.frontend.model.flatten import flatten
from sepcompile.frontend.model.graph import Graph, Node, Ref
from sepcompile.frontend.model.program import build_block
from sepcompile.frontend.model.roles import Convolution, Idle, Mix, Norm, Other, Padding, Role, Sum, read_role
from sepcompile.frontend.model.shapes import multiply_adds, with_shapes
from sepcompile.frontend.model.sources import ModelSource, find_model
from sepcompile.frontend.model.stores import Store
from sepcompile.frontend.read import ImportedLayer, checked_seed
from sepcompile.frontend.values import show
from sepcompile.ir.stages import Shape


@dataclass(frozen=True)
class Unit:
    """A block with the name of its artifact."""

    name: str
    block: Block


@dataclass(frozen=True)
class Model:
    """A model's graph, what part each of its layers can play (by path), and its blocks."""

    graph: Graph
    roles: dict[str, Role]
    units: tuple[Unit, ...]
    store: Store
    keras_version: str | None

    def build(self, unit: Unit, seed: int = 0) -> ImportedLayer:
        """A block's program and weights. Raises ``ConfigError``, ``UnsupportedError`` or ``WeightError``."""
        return build_block(self.graph, self.roles, self.store, unit.block, checked_seed(seed), unit.name)

    def select(self, patterns: tuple[str, ...]) -> tuple[Unit, ...]:
        """The units with a layer or an artifact name that matches one of the shell-style patterns; all for none.

        Raises ``ConfigError`` for a pattern that matches nothing.
        """
        if not patterns:
            return self.units
        chosen: list[Unit] = []
        for pattern in patterns:
            hits = [unit for unit in self.units if any(fnmatchcase(name, pattern) for name in self.names(unit))]
            if not hits:
                raise ConfigError(f"{self.graph.label}: layers={show(pattern)} matches no layer that is compiled")
            chosen += hits
        return tuple(unit for unit in self.units if unit in chosen)

    def names(self, unit: Unit) -> tuple[str, ...]:
        """The names a pattern may match: the artifact's, and each layer's path and own name."""
        layers = [self.graph.nodes[number].layer for number in unit.block.calls]
        return (unit.name, *(layer.path for layer in layers), *(layer.name for layer in layers))


@dataclass(frozen=True)
class LayerReport:
    """One call of a layer. ``artifact`` is the block that covers it, or None and then ``reason`` says why not.

    ``macs`` are multiply-accumulates for one image, None where they cannot be told.
    """

    path: str
    class_name: str
    output_shape: Shape | None
    macs: int | None
    weight_bytes: int | None
    artifact: str | None
    reason: str | None

    @property
    def flops(self) -> int | None:
        """A multiply-accumulate is two floating point operations."""
        return None if self.macs is None else 2 * self.macs


@dataclass(frozen=True)
class ModelReport:
    """Every layer of a model in order, and which artifacts it would become."""

    name: str
    label: str
    keras_version: str | None
    layers: tuple[LayerReport, ...]
    artifacts: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Of all layers whose count is known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def covered_macs(self) -> int:
        """Of the layers that compile."""
        return sum(layer.macs or 0 for layer in self.layers if layer.artifact is not None)


def read_model(
    source: object,
    *,
    weights: object = None,
    input_shape: object = None,
    keras_version: object = None,
    within_models: bool = False,
) -> Model:
    """Reads a model: a ``.keras``, ``.h5`` or ``.hdf5`` file, the JSON of ``to_json()``, or a live model.

    ``weights`` is a weight file for a model without its own (or instead of them), ``input_shape`` the shape of a
    model's one input where the file leaves it open, ``keras_version`` which Keras wrote it where it does not say.
    ``within_models`` keeps each block inside one nested model.
    Raises ``ConfigError``, ``UnsupportedError`` or ``WeightError``, never anything else, whatever the file holds.
    """
    found = find_model(source, weights)
    graph, declared = flatten(found.class_name, found.config, found.label)
    graph = with_shapes(graph, declared, input_shape)
    roles = _roles(graph, found, keras_version)
    return Model(graph, roles, _units(graph, find_blocks(graph, roles, within_models)), found.store, found.version)


def _roles(graph: Graph, found: ModelSource, stated: object) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for node in graph.nodes:
        if node.layer.path not in roles:
            roles[node.layer.path] = read_role(node.layer, stated=stated, found=found.version, hint=found.hint)
    return roles


def _units(graph: Graph, blocks: tuple[Block, ...]) -> tuple[Unit, ...]:
    """Blocks named after their convolution; names that fall together are numbered."""
    taken: set[str] = set()
    units: list[Unit] = []
    for block in blocks:
        layer = graph.nodes[block.conv].layer
        base = program_name(re.sub("/", "_", layer.path))
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base[:56]}_{number}"
        taken.add(name.lower())
        units.append(Unit(name, block))
    return tuple(units)


def report(model: Model) -> ModelReport:
    """What becomes of every layer. Programs are built, so that a block that cannot be says why; nothing is compiled."""
    artifacts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for unit in model.units:
        try:
            model.build(unit)
            artifacts |= dict.fromkeys(unit.block.calls, unit.name)
        except SepcompileError as cause:
            reasons |= dict.fromkeys(unit.block.calls, str(cause))
    rows = tuple(_row(model, number, artifacts, reasons) for number in range(len(model.graph.nodes)))
    names = tuple(unit.name for unit in model.units if unit.block.conv in artifacts)
    return ModelReport(model.graph.name, model.graph.label, model.keras_version, rows, names)


def _row(model: Model, number: int, artifacts: dict[int, str], reasons: dict[int, str]) -> LayerReport:
    node = model.graph.nodes[number]
    artifact = artifacts.get(number)
    return LayerReport(
        path=node.layer.path,
        class_name=node.layer.class_name,
        output_shape=model.graph.shapes.get(Ref(number)),
        macs=multiply_adds(model.graph, number),
        weight_bytes=_weight_bytes(model, node),
        artifact=artifact,
        reason=None if artifact else reasons.get(number) or _reason(node, model.roles[node.layer.path]),
    )


def _weight_bytes(model: Model, node: Node) -> int | None:
    if node.layer.class_name == "InputLayer":
        return 0
    try:
        found = model.store.arrays(node.layer)
    except SepcompileError:
        return None
    arrays = [] if found is None else list(found.values() if isinstance(found, dict) else found)
    return sum(int(getattr(array, "nbytes", 0)) for array in arrays)


def _reason(node: Node, role: Role) -> str:
    if isinstance(role, Other):
        return role.reason
    if isinstance(role, Convolution):
        options = ", ".join(f"{key}={show(value)}" for key, value in node.options)
        return f"called with {options or f'{len(node.inputs)} tensors'}, which is not compiled"
    if isinstance(role, Sum):
        return "an addition that is not of a block's result and one other tensor of its shape in channels_last layout"
    what = {Mix: "a 1x1 convolution", Norm: "a normalization", Padding: "padding", Idle: "a layer without effect"}
    return f"{what.get(type(role), 'an activation')} that no depthwise layer is directly before or after"
