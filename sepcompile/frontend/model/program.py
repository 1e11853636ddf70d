"""From a block of a model to a program with its weights, through the same functions as a single layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import UnsupportedError, WeightError
from sepcompile.frontend.activations import ActivationConfig
from sepcompile.frontend.build import (
    Sizes,
    activation_stage,
    convolution_stages,
    nhwc_sizes,
    program_name,
    stages_after,
)
from sepcompile.frontend.inputs import read_shape
from sepcompile.frontend.layers import LayerConfig
from sepcompile.frontend.model.blocks import Block
from sepcompile.frontend.model.graph import Graph, ModelLayer
from sepcompile.frontend.model.roles import Activate, Convolution, Idle, Mix, Norm, Padding, Role, Sum
from sepcompile.frontend.model.stores import Store
from sepcompile.frontend.read import ImportedLayer
from sepcompile.frontend.values import at
from sepcompile.frontend.weights import Slot, load, slots
from sepcompile.ir.passes import INWARD, OUTWARD, canonicalize, fold_scale_shift
from sepcompile.ir.shapes import output_shape
from sepcompile.ir.stages import (
    Activation,
    Bias,
    Pad,
    Pointwise,
    Program,
    Residual,
    ScaleShift,
    Shape,
    Stage,
    TensorSpec,
    Transpose,
)
from sepcompile.ir.verify import verify_weights

Array = NDArray[Any]


@dataclass(frozen=True)
class Draft:
    """A block before its scales are folded: every stage is one of Keras's own computations.

    ``weights`` of ScaleShift stages are float64, so that folding rounds once.
    """

    program: Program
    weights: dict[str, Array]
    drawn: bool


def build_block(
    graph: Graph, roles: dict[str, Role], store: Store, block: Block, seed: int, name: str
) -> ImportedLayer:
    """The block as the compiler takes a layer. Raises ``ConfigError``, ``UnsupportedError`` or ``WeightError``."""
    conv = _convolution(graph, roles, block)
    draft = draft_block(graph, roles, store, block, seed)
    folded, weights = fold_scale_shift(draft.program, draft.weights)
    program = canonicalize(replace(folded, name=name))
    verify_weights(program, weights)
    config: dict[str, Any] = conv.layer.to_config()
    if len(block.calls) > 1:
        config["block"] = [_described(graph, number) for number in block.calls]
    notes = conv.layer.activation.notes
    if draft.drawn:
        notes = (*notes, f"{conv.layer.where}: no weights were given; they are drawn with seed {seed}")
    return ImportedLayer(
        program=program,
        weights=weights,
        weights_drawn=draft.drawn,
        generation=conv.generation.name,
        keras_version=conv.generation.text,
        config=config,
        ignored=dict(conv.layer.ignored),
        notes=notes,
    )


def draft_block(graph: Graph, roles: dict[str, Role], store: Store, block: Block, seed: int) -> Draft:
    """The block's stages one to one, and their weights; see ``build_block``."""
    conv = _convolution(graph, roles, block).layer
    known = graph.shapes.get(block.input)
    if known is None:
        raise UnsupportedError(f"{conv.where}: the shape of its input cannot be told; pass the model's input_shape")
    shape = read_shape(list(known), conv, at(conv.where, "input_shape"))
    writer = _Writer(conv, store, seed, nhwc_sizes(shape, conv.channels_first))
    for number in block.calls:
        writer.add(graph.nodes[number].layer, roles[graph.nodes[number].layer.path], number)
    return Draft(writer.program(shape), writer.weights, writer.drawn)


def _convolution(graph: Graph, roles: dict[str, Role], block: Block) -> Convolution:
    role = roles[graph.nodes[block.conv].layer.path]
    assert isinstance(role, Convolution)
    return role


def _described(graph: Graph, number: int) -> dict[str, Any]:
    layer = graph.nodes[number].layer
    return {"layer": layer.path, "class_name": layer.class_name}


@dataclass
class _Writer:
    """Collects stages and weights; ``sizes`` is the (H, W, C) that reaches the next stage."""

    conv: LayerConfig
    store: Store
    seed: int
    sizes: Sizes
    early: list[Stage] = field(default_factory=list)
    pads: list[Stage] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    drawn: bool = False

    def add(self, layer: ModelLayer, role: Role, number: int) -> None:
        writers: dict[type, Callable[..., None]] = {
            Convolution: self._convolution,
            Mix: self._mix,
            Norm: self._norm,
            Activate: self._activate,
            Padding: self._padding,
            Idle: self._idle,
            Sum: self._sum,
        }
        writers[type(role)](layer, role, number)

    def program(self, shape: Shape) -> Program:
        # Padding zeros come after the activation that is applied on reading; the block finder saw to it that this is
        # the same as Keras's order.
        stages: tuple[Stage, ...] = (*self.early, *self.pads, *self.stages)
        if self.conv.channels_first:
            where = at(self.conv.where, "data_format")
            stages = (Transpose(INWARD, where), *stages, Transpose(OUTWARD, where))
        source = TensorSpec(shape, self.conv.policy.compute)
        name = program_name(self.conv.name)
        target = TensorSpec(output_shape(Program(name, source, source, stages)), self.conv.output_dtype)
        return Program(name, source, target, stages)

    def _append(self, *stages: Stage) -> None:
        # A linear activation between would keep a scale from its kernel.
        self.stages += [stage for stage in stages if not (isinstance(stage, Activation) and stage.kind == "linear")]
        self.sizes = stages_after(stages, self.sizes)

    def _load(self, layer: ModelLayer, wanted: tuple[Slot, ...], number: int) -> dict[str, Any]:
        if not wanted:
            return {}
        arrays, drawn = load(self.store.arrays(layer), wanted, layer.where, self.seed + number)
        self.drawn = self.drawn or drawn
        return dict(arrays)

    def _convolution(self, layer: ModelLayer, role: Convolution, number: int) -> None:
        channels = self.sizes[2]
        self._append(*convolution_stages(self.conv, self.sizes))
        wanted = slots(self.conv, channels, self.sizes)
        self._append(activation_stage(self.conv, self.sizes))
        self.weights |= self._load(layer, wanted, number)

    def _mix(self, layer: ModelLayer, role: Mix, number: int) -> None:
        channels, filters = self.sizes[2], role.filters
        initializers, dtype = dict(role.initializers), role.policy.compute
        full = (1,) * role.rank + (channels, filters)
        wanted = [
            Slot("pointwise_kernel", ("kernel",), full, (channels, filters), initializers["kernel"], dtype),
        ]
        stages: list[Stage] = [Pointwise("pointwise_kernel", channels, filters, at(layer.where, "filters"))]
        if role.use_bias:
            wanted.append(Slot("pointwise_bias", ("bias",), (filters,), (filters,), initializers["bias"], dtype))
            stages.append(Bias("pointwise_bias", filters, at(layer.where, "use_bias")))
        self._append(*stages)
        prefix = "pointwise_"
        acting = replace(self.conv, activation=role.activation)
        wanted += _alpha(acting, self.sizes, prefix)
        self._append(activation_stage(acting, self.sizes, prefix))
        self.weights |= self._load(layer, tuple(wanted), number)

    def _norm(self, layer: ModelLayer, role: Norm, number: int) -> None:
        channels = self.sizes[2]
        initializers = dict(role.initializers)
        names = ["gamma"] * role.scale + ["beta"] * role.center + ["moving_mean", "moving_variance"]
        wanted = tuple(Slot(name, (name,), (channels,), (channels,), initializers[name], "float32") for name in names)
        arrays = {name: array.astype(np.float64) for name, array in self._load(layer, wanted, number).items()}
        with np.errstate(all="ignore"):
            scale = arrays.get("gamma", 1.0) / np.sqrt(arrays["moving_variance"] + role.epsilon)
            shift = arrays.get("beta", 0.0) - arrays["moving_mean"] * scale
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise WeightError(f"{layer.where}: moving_variance + epsilon={role.epsilon} is not above 0 everywhere")
        prefix = f"norm{number}_"
        self.weights |= {f"{prefix}scale": scale, f"{prefix}shift": shift}
        self._append(ScaleShift(f"{prefix}scale", f"{prefix}shift", channels, at(layer.where, "gamma")))

    def _activate(self, layer: ModelLayer, role: Activate, number: int) -> None:
        prefix = f"activation{number}_"
        acting = replace(self.conv, activation=_named(role.activation, layer))
        self.weights |= self._load(layer, tuple(_alpha(acting, self.sizes, prefix)), number)
        stage = activation_stage(acting, self.sizes, prefix)
        if self.stages:  # the convolution is there
            self._append(stage)
        else:
            self.early.append(stage)

    def _padding(self, layer: ModelLayer, role: Padding, number: int) -> None:
        (top, bottom), (left, right) = ((0, 0), *role.amounts)[-2:]
        self.pads.append(Pad((top, left), (bottom, right), at(layer.where, "padding")))
        height, width, channels = self.sizes
        self.sizes = (height + top + bottom, width + left + right, channels)

    def _sum(self, layer: ModelLayer, role: Sum, number: int) -> None:
        self._append(Residual(layer.where))

    def _idle(self, layer: ModelLayer, role: Idle, number: int) -> None:
        """Nothing at inference."""


def _named(activation: ActivationConfig, layer: ModelLayer) -> ActivationConfig:
    return replace(activation, where=at(layer.where, "activation"))


def _alpha(acting: LayerConfig, sizes: Sizes, prefix: str) -> list[Slot]:
    """PReLU's weight, as a layer's own ``slots`` would have it last."""
    if acting.activation.prelu is None:
        return []
    channels = sizes[2] if acting.cls.separable else sizes[2] // acting.depth_multiplier
    return [slots(acting, channels, sizes, prefix)[-1]]
