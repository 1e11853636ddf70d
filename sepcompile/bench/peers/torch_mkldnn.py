"""oneDNN through PyTorch's prepacked convolutions, as Inductor calls them: weights reordered once, activation fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.torch_common import TorchLayer, activation, candidate, load_torch, tensors, torch_info

# Keras name -> oneDNN post-operation as Inductor spells it, and its scalars.
FUSED: dict[str, tuple[str, list[float]]] = {
    "linear": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
    "silu": ("swish", []),
    "hard_silu": ("hardswish", []),
}


class TorchMkldnn:
    """Two calls of ``mkldnn._convolution_pointwise`` on prepacked weights."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def info(self) -> PeerInfo:
        return torch_info(self._torch, "oneDNN, prepacked weights, fused post-operations")

    def prepare(self, case: Case) -> list[Candidate]:
        result = []
        for label, last in (("channels_last", True), ("contiguous", False)):
            layer = tensors(self._torch, case, 4, last)
            result.append(candidate(label, self._function(case, layer), layer))
        return result

    def _packed(self, weight: Any, conv: dict[str, Any], size: list[int]) -> tuple[Any, tuple[Any, ...]]:
        """A reordered weight and where it is applied, in the order the operator takes it."""
        place = conv["padding"], conv["stride"], conv["dilation"], conv["groups"]
        return self._torch.ops.mkldnn._reorder_convolution_weight(weight, *place, size), place

    def _function(self, case: Case, layer: TorchLayer) -> Callable[[Any], Any]:
        torch, geo = self._torch, case.geo
        attribute, scalars = FUSED.get(geo.activation, ("none", []))
        after = None if geo.activation in FUSED else activation(torch, geo.activation)
        plain = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
        size = [int(d) for d in layer.x.shape]
        if layer.pads:
            size = [int(d) for d in torch.nn.functional.pad(layer.x, layer.pads).shape]
        steps = [self._packed(layer.depthwise, layer.conv, size)]
        if layer.pointwise is not None:
            middle = [geo.batch, geo.mid_channels, *geo.out_size]
            steps.append(self._packed(layer.pointwise, plain, middle))
        op = torch.ops.mkldnn._convolution_pointwise.default

        def run(x: Any) -> Any:
            if layer.pads:
                x = torch.nn.functional.pad(x, layer.pads)
            for weight, place in steps[:-1]:
                x = op(x, weight, None, *place, "none", [], "")
            weight, place = steps[-1]
            y = op(x, weight, layer.bias, *place, attribute, scalars, "")
            return y if after is None else after(y)

        return run


def create(settings: Settings) -> TorchMkldnn:
    return TorchMkldnn(load_torch(settings))
