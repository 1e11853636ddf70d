"""ncnn: its text graph and raw weights, written here; float32 everywhere, one image at a time."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sepcompile.bench.errors import UnsupportedLayerError
from sepcompile.bench.layers import Array, CaseData, Geometry
from sepcompile.bench.peers.arrays import depthwise_oihw, pointwise_oihw
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings

FUSED = {"linear": "", "relu": "9=1", "relu6": "9=3 -23310=2,0.0,6.0"}
# Layer and its parameters: ncnn's own defaults are other constants than Keras's.
SEPARATE = {"elu": ("ELU", "0=1.0"), "silu": ("Swish", ""), "hard_silu": ("HardSwish", "0=0.16666667 1=0.5")}


class Ncnn:
    """A net per layer; a call makes an extractor, as ncnn's API asks for."""

    def __init__(self, settings: Settings, ncnn: Any) -> None:
        self._ncnn, self._threads = ncnn, settings.threads

    def info(self) -> PeerInfo:
        return PeerInfo(str(self._ncnn.__version__), notes="fp16 and bf16 off")

    def prepare(self, case: Case) -> list[Candidate]:
        if case.geo.batch != 1:
            raise UnsupportedLayerError("ncnn has no batch dimension")
        net = self._ncnn.Net()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, option, False)
        net.opt.num_threads = self._threads
        stem = case.folder / f"ncnn-{self._threads}"
        stem.with_suffix(".param").write_text(param_text(case.geo), encoding="ascii")
        stem.with_suffix(".bin").write_bytes(weight_bytes(case.data))
        net.load_param(str(stem.with_suffix(".param")))
        net.load_model(str(stem.with_suffix(".bin")))
        # A Mat does not hold its array: the array must outlive the copy.
        source = np.ascontiguousarray(case.data.x[0].transpose(2, 0, 1))
        x = self._ncnn.Mat(source).clone()
        result: list[Any] = [None]

        def call() -> None:
            extractor = net.create_extractor()
            extractor.input("x", x)
            result[0] = extractor.extract("y")[1]

        def output() -> Array:
            return np.array(result[0]).transpose(1, 2, 0)[None]

        return [Candidate("net", call, output, keep=(net, x, source))]


def param_text(geo: Geometry) -> str:
    """The graph in ncnn's text form."""
    fused = FUSED.get(geo.activation, "")
    last = geo.filters is None
    (kh, kw), (dh, dw), (sh, sw) = geo.kernel, geo.dilation, geo.strides
    (top, left), (bottom, right) = geo.pad_before, geo.pad_after
    end = "z" if geo.activation in SEPARATE else "y"
    depthwise = (
        f"ConvolutionDepthWise dw 1 1 x {end if last else 'mid'} 0={geo.mid_channels} 1={kw} 11={kh} 2={dw} 12={dh} "
        f"3={sw} 13={sh} 4={left} 14={top} 15={right} 16={bottom} 5={int(last and geo.use_bias)} "
        f"6={kh * kw * geo.mid_channels} 7={geo.channels} {fused if last else ''}"
    )
    layers = ["Input x 0 1 x", depthwise]
    if geo.filters is not None:
        size = geo.filters * geo.mid_channels
        layers.append(f"Convolution pw 1 1 mid {end} 0={geo.filters} 1=1 5={int(geo.use_bias)} 6={size} {fused}")
    if geo.activation in SEPARATE:
        kind, parameters = SEPARATE[geo.activation]
        layers.append(f"{kind} act 1 1 z y {parameters}")
    return "\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers, ""])


def weight_bytes(data: CaseData) -> bytes:
    """The weights in the graph's order; a zero word before an array says float32."""
    parts = [b"\0\0\0\0", depthwise_oihw(data.depthwise).tobytes()]
    if data.pointwise is not None:
        parts += [b"\0\0\0\0", pointwise_oihw(data.pointwise).tobytes()]
    if data.bias is not None:
        parts.append(data.bias.tobytes())
    return b"".join(parts)


def create(settings: Settings) -> Ncnn:
    return Ncnn(settings, importlib.import_module("ncnn"))
