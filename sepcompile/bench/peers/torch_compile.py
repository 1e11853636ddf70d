"""torch.compile with frozen weights: Inductor's C++ around oneDNN's convolutions."""

from __future__ import annotations

import importlib
from typing import Any

from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.torch_common import TorchLayer, activation, candidate, load_torch, tensors, torch_info


class TorchCompile:
    """An nn.Module per layer, compiled with freezing; needs a C++ compiler on the machine."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        config: Any = importlib.import_module("torch._inductor.config")
        config.freezing, config.compile_threads = True, 1

    def info(self) -> PeerInfo:
        return torch_info(self._torch, "torch.compile (Inductor), freezing on")

    def prepare(self, case: Case) -> list[Candidate]:
        layer = tensors(self._torch, case, 4, channels_last=True)
        importlib.import_module("torch._dynamo").reset()
        compiled = self._torch.compile(self._module(case, layer), dynamic=False)
        compiled(layer.x)
        return [candidate("channels_last", compiled, layer)]

    def _module(self, case: Case, layer: TorchLayer) -> Any:
        torch, act, geo = self._torch, activation(self._torch, case.geo.activation), case.geo
        steps = []
        if layer.pads:
            steps.append(torch.nn.ZeroPad2d(layer.pads))
        bias = layer.bias is not None
        separable = layer.pointwise is not None
        convs = [torch.nn.Conv2d(geo.channels, geo.mid_channels, geo.kernel, bias=bias and not separable, **layer.conv)]
        if separable:
            convs.append(torch.nn.Conv2d(geo.mid_channels, geo.out_channels, 1, bias=bias))
        for conv, weight in zip(convs, (layer.depthwise, layer.pointwise), strict=False):
            conv.weight = torch.nn.Parameter(weight)
        if bias:
            convs[-1].bias = torch.nn.Parameter(layer.bias)
        layers = torch.nn.Sequential(*steps, *convs)

        class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.layers = layers

            def forward(self, x: Any) -> Any:
                y = self.layers(x)
                return y if act is None else act(y)

        return Layer().eval()


def create(settings: Settings) -> TorchCompile:
    return TorchCompile(load_torch(settings))
