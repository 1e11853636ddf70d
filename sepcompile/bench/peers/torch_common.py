"""What the three ways to run PyTorch share: the threads, the weights as tensors, the ways to lay out a layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sepcompile.bench.errors import PeerError
from sepcompile.bench.layers import Array, spatial
from sepcompile.bench.peers.arrays import aligned, depthwise_oihw, pointwise_oihw
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings


def load_torch(settings: Settings) -> Any:
    """PyTorch with its thread counts set and read back."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(settings.threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    if torch.get_num_threads() != settings.threads:
        raise PeerError(f"asked for {settings.threads} threads, torch says {torch.get_num_threads()}")
    return torch


def torch_info(torch: Any, notes: str) -> PeerInfo:
    isa = torch.backends.cpu.get_cpu_capability()
    return PeerInfo(torch.__version__, threads=int(torch.get_num_threads()), notes=f"{notes}; ATen {isa}")


@dataclass(frozen=True)
class TorchLayer:
    """A layer's tensors for 2-D convolutions, or 1-D ones (``rank`` 3)."""

    x: Any
    depthwise: Any
    pointwise: Any | None
    bias: Any | None
    conv: dict[str, Any]
    pads: tuple[int, ...]
    rank: int


def _pads(case: Case, rank: int) -> tuple[list[int], tuple[int, ...]]:
    """Symmetric padding goes into the convolution; a difference goes to an explicit pad before it."""
    before, after = spatial(case.geo.pad_before, rank), spatial(case.geo.pad_after, rank)
    shared = [min(pair) for pair in zip(before, after, strict=True)]
    rest = [(b - s, a - s) for b, a, s in zip(before, after, shared, strict=True)]
    flat = tuple(n for pair in reversed(rest) for n in pair)
    return shared, flat if any(flat) else ()


def tensors(torch: Any, case: Case, rank: int, channels_last: bool) -> TorchLayer:
    """Copy a layer's data into tensors of the wanted rank and memory format."""
    geo = case.geo

    def tensor(array: Array) -> Any:
        result = torch.from_numpy(np.ascontiguousarray(array))
        return result.to(memory_format=torch.channels_last) if channels_last and result.dim() == 4 else result

    def squeeze(array: Array) -> Array:
        return array if rank == 4 else array.squeeze(2)

    last = aligned(case.data.x)
    x = torch.from_numpy(last).permute(0, 3, 1, 2) if channels_last else tensor(squeeze(last.transpose(0, 3, 1, 2)))
    pointwise = None if case.data.pointwise is None else tensor(squeeze(pointwise_oihw(case.data.pointwise)))
    bias = None if case.data.bias is None else torch.from_numpy(case.data.bias)
    padding, pads = _pads(case, rank)
    conv = {
        "stride": spatial(geo.strides, rank),
        "padding": padding,
        "dilation": spatial(geo.dilation, rank),
        "groups": geo.channels,
    }
    return TorchLayer(x, tensor(squeeze(depthwise_oihw(case.data.depthwise))), pointwise, bias, conv, pads, rank)


def activation(torch: Any, name: str) -> Callable[[Any], Any] | None:
    """The activation on a tensor nobody else reads, so in place."""
    functional = torch.nn.functional
    table: dict[str, Callable[[Any], Any]] = {
        "relu": torch.relu_,
        "relu6": lambda y: functional.hardtanh_(y, 0.0, 6.0),
        "elu": lambda y: functional.elu_(y),
        "silu": lambda y: functional.silu(y, inplace=True),
        "hard_silu": lambda y: functional.hardswish(y, inplace=True),
    }
    return table.get(name)


def function(torch: Any, case: Case, layer: TorchLayer) -> Callable[[Any], Any]:
    """The layer as a function of x with the ordinary operators."""
    conv = torch.conv1d if layer.rank == 3 else torch.conv2d
    act = activation(torch, case.geo.activation)
    pad = torch.nn.functional.pad

    def run(x: Any) -> Any:
        if layer.pads:
            x = pad(x, layer.pads)
        y = conv(x, layer.depthwise, None if layer.pointwise is not None else layer.bias, **layer.conv)
        if layer.pointwise is not None:
            y = conv(y, layer.pointwise, layer.bias)
        return y if act is None else act(y)

    return run


def candidate(label: str, run: Callable[[Any], Any], layer: TorchLayer, evidence: str = "") -> Candidate:
    """A candidate that keeps its last result."""
    last: list[Any] = [None]

    def call() -> None:
        last[0] = run(layer.x)

    def output() -> Array:
        y = last[0] if layer.rank == 4 else last[0].unsqueeze(2)
        return np.asarray(y.permute(0, 2, 3, 1).contiguous().numpy())

    return Candidate(label, call, output, evidence, (layer,))
