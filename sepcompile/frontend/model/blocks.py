"""Finds the separable blocks of a graph: a depthwise or separable layer with what surrounds it.

::

    [ZeroPadding] [activation before] conv [BN] [activation] [1x1 Conv [BN] [activation]] [Add [activation]]
        [row-wise activation]

A block grows while the tensor between is read by nothing else, so that no intermediate result is needed outside; every
call of a layer is in one block at most. Blocks grow forward first: an activation between two convolutions is applied
once as the first one's result is stored, rather than on every read of the second one's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sepcompile.frontend.activations import ActivationConfig
from sepcompile.frontend.layers import LayerConfig
from sepcompile.frontend.model.graph import Graph, Ref
from sepcompile.frontend.model.roles import Activate, Convolution, Idle, Mix, Norm, Padding, Role, Sum
from sepcompile.ir.activations import KINDS, apply, make

_CHEAP = frozenset({"linear", "relu", "prelu", "hard_tanh", "hard_sigmoid", "hard_silu", "sparse_sigmoid", "threshold"})
_SHAPELESS_OPTIONS = {"mask", "training"}


@dataclass(frozen=True)
class Block:
    """Calls that become one program: ``before`` the convolution and ``after`` it, in order, by their numbers.

    ``residual`` is the other tensor of an Add among them.
    """

    conv: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    input: Ref
    output: Ref
    residual: Ref | None = None

    @property
    def calls(self) -> tuple[int, ...]:
        """Every call, in order."""
        return (*self.before, self.conv, *self.after)


def find_blocks(graph: Graph, roles: Mapping[str, Role], within_models: bool = False) -> tuple[Block, ...]:
    """Every block of the graph, in its order. ``roles`` are the layers' by path.

    ``within_models`` keeps each block inside one nested model.
    """
    return _Finder(graph, roles, within_models).find()


@dataclass
class _State:
    """What the block's stages allow next, see the grammar above."""

    has_mix: bool
    activated: bool = False
    residual: Ref | None = None
    done: bool = False

    def activate(self, activation: ActivationConfig) -> bool:
        kind = KINDS[activation.kind]
        if kind.name == "linear":
            return True
        if kind.is_rowwise:
            self.done = True
        elif self.activated:
            return False
        self.activated = True
        return True


@dataclass
class _Finder:
    graph: Graph
    roles: Mapping[str, Role]
    within_models: bool = False
    taken: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.uses = self.graph.uses()

    def find(self) -> tuple[Block, ...]:
        convs = [n for n in range(len(self.graph.nodes)) if isinstance(self._role(n), Convolution) and self._plain(n)]
        self.taken = set(convs)
        after = {conv: self._forward(conv) for conv in convs}
        return tuple(self._block(conv, self._backward(conv), *after[conv]) for conv in convs)

    def _block(self, conv: int, before: tuple[int, ...], after: tuple[int, ...], residual: Ref | None) -> Block:
        first = before[0] if before else conv
        last = after[-1] if after else conv
        return Block(conv, before, after, self.graph.nodes[first].inputs[0], Ref(last), residual)

    def _role(self, number: int) -> Role:
        return self.roles[self.graph.nodes[number].layer.path]

    def _plain(self, number: int) -> bool:
        """A call with one tensor and no option that changes it (``training=True`` uses the batch's own statistics)."""
        node = self.graph.nodes[number]
        return self._without_options(number) and len(node.inputs) == 1 and node.inputs[0].index == 0

    def _without_options(self, number: int) -> bool:
        options = self.graph.nodes[number].options
        return all(key in _SHAPELESS_OPTIONS and value in (None, False) for key, value in options)

    def _layer(self, conv: int) -> LayerConfig:
        role = self._role(conv)
        assert isinstance(role, Convolution)
        return role.layer

    # ---- forward ----

    def _forward(self, conv: int) -> tuple[tuple[int, ...], Ref | None]:
        """The calls after the convolution, and the tensor that is added among them."""
        layer = self._layer(conv)
        state = _State(has_mix=layer.cls.separable)
        state.activate(layer.activation)
        found: list[int] = []
        here = conv
        while not state.done and (following := self._only_reader(here)) is not None:
            if not self._fits_after(following, here, layer, state):
                break
            found.append(following)
            self.taken.add(following)
            here = following
        return tuple(found), state.residual

    def _only_reader(self, number: int) -> int | None:
        readers = [use for index in range(8) for use in self.uses.get(Ref(number, index), ())]
        if len(readers) != 1 or readers[0] < 0 or readers[0] in self.taken:
            return None
        if not self._plain(readers[0]) and not isinstance(self._role(readers[0]), Sum):
            return None
        return readers[0] if self._together(number, readers[0]) else None

    def _together(self, one: int, other: int) -> bool:
        models = [self.graph.nodes[number].layer.names[:-1] for number in (one, other)]
        return not self.within_models or models[0] == models[1]

    def _fits_after(self, number: int, before: int, layer: LayerConfig, state: _State) -> bool:
        role = self._role(number)
        if isinstance(role, Idle | Norm | Mix | Activate | Sum) and role.policy.compute != layer.output_dtype:
            return False
        if isinstance(role, Idle):
            return True
        if isinstance(role, Norm):
            return not state.activated and state.residual is None and _channel_axis(role.axis, layer)
        if isinstance(role, Sum):
            return self._adds(number, before, layer, state)
        if isinstance(role, Activate):
            return state.activate(role.activation)
        if not isinstance(role, Mix) or state.has_mix or state.residual is not None:
            return False
        if role.rank != layer.cls.rank or role.channels_first != layer.channels_first:
            return False
        if role.activation.dtype not in (None, layer.output_dtype):
            return False
        state.has_mix, state.activated = True, False
        return state.activate(role.activation)

    def _adds(self, number: int, before: int, layer: LayerConfig, state: _State) -> bool:
        """Whether the call adds one other tensor of the same shape to what the call ``before`` gives.

        Kernels read it as they store their result, which for channels_first has another order in memory.
        """
        inputs = self.graph.nodes[number].inputs
        others = [ref for ref in inputs if ref != Ref(before)]
        if layer.channels_first or state.residual is not None or len(inputs) != 2 or len(others) != 1:
            return False
        shapes = [self.graph.shapes.get(ref) for ref in inputs]
        if shapes[0] is None or shapes[0] != shapes[1] or not self._without_options(number):
            return False
        state.residual, state.activated = others[0], False
        return True

    # ---- backward ----

    def _backward(self, conv: int) -> tuple[int, ...]:
        layer = self._layer(conv)
        found: list[int] = []
        activated = False
        here = conv
        while (earlier := self._only_written(here)) is not None:
            role = self._role(earlier)
            if isinstance(role, Activate) and not activated and _movable(role.activation):
                activated = role.activation.kind != "linear"
            elif isinstance(role, Padding):
                if not self._pads(role, layer) or (activated and not self._keeps_zero(found)):
                    break
            elif not isinstance(role, Idle):
                break
            if isinstance(role, Activate | Padding | Idle) and role.policy.compute != layer.policy.compute:
                break
            found.insert(0, earlier)
            self.taken.add(earlier)
            here = earlier
        return tuple(self._without_leading_idle(found))

    def _only_written(self, number: int) -> int | None:
        """The call that makes this one's input, where nothing else reads that."""
        ref = self.graph.nodes[number].inputs[0]
        maker = ref.node
        if ref.index or maker in self.taken or self.uses[ref] != [number] or not self._plain_maker(maker):
            return None
        return maker if self._together(maker, number) else None

    def _plain_maker(self, maker: int) -> bool:
        return bool(self.graph.nodes[maker].inputs) and self._plain(maker)

    def _pads(self, role: Padding, layer: LayerConfig) -> bool:
        return len(role.amounts) == layer.cls.rank and role.channels_first == layer.channels_first

    def _keeps_zero(self, found: list[int]) -> bool:
        """Whether the activation of ``found`` leaves the zeros of a padding before it as they are.

        Kernels apply the activation as they read the input, and pad after it. PReLU's weight may differ per pixel.
        """
        for number in found:
            role = self._role(number)
            if isinstance(role, Activate) and role.activation.kind != "linear":
                kind = role.activation.kind
                if KINDS[kind].weighted:
                    return False
                return bool(apply(make(kind, dict(role.activation.params)), np.zeros(1))[0] == 0.0)
        return True

    def _without_leading_idle(self, found: list[int]) -> list[int]:
        """A Dropout that only stands before the block gains nothing by being in it."""
        while found and isinstance(self._role(found[0]), Idle):
            self.taken.discard(found.pop(0))
        return found


def _movable(activation: ActivationConfig) -> bool:
    """Kernels apply it as they read, once per tap of the kernel: worth it where it takes an instruction or two."""
    return activation.kind in _CHEAP


def _channel_axis(axis: int, layer: LayerConfig) -> bool:
    rank = layer.cls.rank + 2
    return -rank <= axis < rank and axis % rank == (1 if layer.channels_first else rank - 1)
