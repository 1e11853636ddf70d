"""PyTorch's ordinary operators; channels_last memory format, contiguous and 1-D convolutions all get their chance."""

from __future__ import annotations

from typing import Any

from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.torch_common import candidate, function, load_torch, tensors, torch_info


class TorchEager:
    """conv2d / conv1d and an in-place activation, under inference mode."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def info(self) -> PeerInfo:
        return torch_info(self._torch, "eager operators, gradients off")

    def prepare(self, case: Case) -> list[Candidate]:
        setups = [("channels_last", 4, True), ("contiguous", 4, False)]
        if case.geo.one_d:
            setups.append(("conv1d", 3, False))
        result = []
        for label, rank, last in setups:
            layer = tensors(self._torch, case, rank, last)
            result.append(candidate(label, function(self._torch, case, layer), layer))
        return result


def create(settings: Settings) -> TorchEager:
    return TorchEager(load_torch(settings))
