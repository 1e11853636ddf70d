"""A model as a typed graph: layers, their calls, and the tensors between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sepcompile.ir.stages import Origin, Shape


@dataclass(frozen=True)
class ModelLayer:
    """One layer of a model, however often it is called.

    ``names`` are those of the models around it and its own. ``stored_at`` is its place in a Keras 3 weight file.
    ``built`` is the input shape that the file says it was built with.
    """

    names: tuple[str, ...]
    class_name: str
    config: Mapping[str, Any]
    stored_at: str
    where: Origin
    module: object = None
    registered_name: object = None
    built: object = None

    @property
    def name(self) -> str:
        """Its own name."""
        return self.names[-1]

    @property
    def path(self) -> str:
        """Its names in one: ``features/conv_dw_1``."""
        return "/".join(self.names)


@dataclass(frozen=True)
class Ref:
    """One tensor: output number ``index`` of the call ``node``."""

    node: int
    index: int = 0


@dataclass(frozen=True)
class Node:
    """One call of a layer. ``options`` are its call arguments that are neither tensors nor None, by name."""

    layer: ModelLayer
    inputs: tuple[Ref, ...]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Graph:
    """A model with its nested models inlined; ``nodes`` are in an order in which every input comes before its use.

    ``shapes`` holds Keras's shape (batch first, None where dynamic) of every tensor whose shape is known.
    """

    name: str
    label: str
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    shapes: Mapping[Ref, Shape] = field(default_factory=dict)

    def uses(self) -> dict[Ref, list[int]]:
        """The calls that read each tensor; -1 stands for the model's own output."""
        found: dict[Ref, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for ref in node.inputs:
                found.setdefault(ref, []).append(number)
        for ref in self.outputs:
            found.setdefault(ref, []).append(-1)
        return found

    def tensor_name(self, ref: Ref) -> str:
        """A tensor by the layer that makes it, with the number of the call or output where there are several."""
        node = self.nodes[ref.node]
        calls = [number for number, other in enumerate(self.nodes) if other.layer.path == node.layer.path]
        name = node.layer.path
        name += f"#{calls.index(ref.node)}" if len(calls) > 1 else ""
        return name + (f":{ref.index}" if ref.index else "")
