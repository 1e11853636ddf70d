"""The layers under test: what a suite's row says, the geometry that follows from it, and the data it runs on.

NumPy and the standard library only: the peers' processes import this module, in a Python that may have no sepcompile.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepcompile.bench.errors import BenchError

Array = NDArray[Any]
Pair = tuple[int, int]

KINDS = ("SeparableConv2D", "SeparableConv1D", "DepthwiseConv2D", "DepthwiseConv1D")
ACTIVATIONS = ("linear", "relu", "relu6", "elu", "silu", "hard_silu")


@dataclass(frozen=True)
class BenchLayer:
    """One row of a suite: a Keras class name, its config and the input shape (batch first, the layer's own layout)."""

    name: str
    class_name: str
    input_shape: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.class_name not in KINDS:
            raise BenchError(f"{self.name}: class_name is {self.class_name!r}; the benchmark knows {', '.join(KINDS)}")
        if len(self.input_shape) != self.rank + 2 or any(d < 1 for d in self.input_shape):
            raise BenchError(
                f"{self.name}: input_shape is {self.input_shape}; it needs {self.rank + 2} positive sizes, batch first"
            )
        if self.activation not in ACTIVATIONS:
            raise BenchError(f"{self.name}: activation is {self.activation!r}; known here: {', '.join(ACTIVATIONS)}")

    @property
    def rank(self) -> int:
        return 1 if self.class_name.endswith("1D") else 2

    @property
    def separable(self) -> bool:
        return self.class_name.startswith("Separable")

    @property
    def activation(self) -> str:
        return str(self.config.get("activation") or "linear")

    @property
    def channels_first(self) -> bool:
        return bool(self.config.get("data_format", "channels_last") == "channels_first")

    @property
    def group(self) -> str:
        """The class of layers whose rows share a chart."""
        return f"{'separable' if self.separable else 'depthwise'} {self.rank}-D"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "class_name": self.class_name,
            "input_shape": list(self.input_shape),
            "config": dict(self.config),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> BenchLayer:
        try:
            shape = tuple(int(d) for d in row["input_shape"])
            return cls(str(row["name"]), str(row["class_name"]), shape, dict(row.get("config", {})))
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"not a layer row: {row!r} ({error})") from error


@dataclass(frozen=True)
class Around:
    """What a block of a model has beside a single layer: an activation before it, bias and activation between its two
    stages, and a second tensor that is added to the result, with an activation after that."""

    before: str = "linear"
    middle: str = "linear"
    middle_bias: bool = False
    residual: bool = False
    last: str = "linear"

    def __post_init__(self) -> None:
        for name in (self.before, self.middle, self.last):
            if name not in ACTIVATIONS:
                raise BenchError(f"a block's activation is {name!r}; known here: {', '.join(ACTIVATIONS)}")


ALONE = Around()


@dataclass(frozen=True)
class Geometry:
    """A layer as plain numbers over NHWC, with the padding written out; a 1-D layer has H = 1."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: Pair
    strides: Pair
    dilation: Pair
    pad_before: Pair
    pad_after: Pair
    depth_multiplier: int
    filters: int | None
    use_bias: bool
    activation: str
    channels_first: bool
    one_d: bool
    around: Around = ALONE

    @property
    def mid_channels(self) -> int:
        return self.channels * self.depth_multiplier

    @property
    def out_channels(self) -> int:
        return self.mid_channels if self.filters is None else self.filters

    @property
    def out_size(self) -> Pair:
        sizes = []
        for i, size in enumerate((self.height, self.width)):
            span = (self.kernel[i] - 1) * self.dilation[i] + 1
            sizes.append((size + self.pad_before[i] + self.pad_after[i] - span) // self.strides[i] + 1)
        return sizes[0], sizes[1]

    @property
    def padded(self) -> bool:
        return any((*self.pad_before, *self.pad_after))

    @property
    def nhwc_in(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels

    @property
    def nhwc_out(self) -> tuple[int, int, int, int]:
        return self.batch, *self.out_size, self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-adds of the depthwise and the pointwise part, padding counted as if it were data."""
        pixels = self.batch * self.out_size[0] * self.out_size[1]
        depthwise = pixels * self.mid_channels * self.kernel[0] * self.kernel[1]
        return depthwise + (pixels * self.mid_channels * self.filters if self.filters else 0)

    @property
    def bytes_moved(self) -> int:
        """The least traffic in float32: input, output and weights once each."""
        n, h, w, c = self.nhwc_out
        weights = self.kernel[0] * self.kernel[1] * self.mid_channels + self.mid_channels * (self.filters or 0)
        images = n * h * w * c * (2 if self.around.residual else 1)
        return 4 * (self.batch * self.height * self.width * self.channels + images + weights)


@dataclass(frozen=True)
class CaseData:
    """Real numbers for one layer, NHWC. ``depthwise`` is (kh, kw, C, m), ``pointwise`` (C*m, F), ``bias`` (out,).

    Of a block also ``middle_bias`` (C*m,) and ``residual``, which is like the output.
    """

    x: Array
    depthwise: Array
    pointwise: Array | None
    bias: Array | None
    middle_bias: Array | None = None
    residual: Array | None = None


def spatial(pair: Pair, rank: int) -> list[int]:
    """A pair's values for a convolution over tensors of this rank: both for 4, the second for 3."""
    return [*pair][4 - rank :]


def _pair(value: Any, one_d: bool) -> Pair:
    values = (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
    if one_d:
        return 1, values[0]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _padding(mode: Any, size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Zeros before and after; ``mode`` is Keras's word or the two numbers."""
    if not isinstance(mode, str):
        return int(mode[0]), int(mode[1])
    span = (kernel - 1) * dilation + 1
    if mode == "same":
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        return total // 2, total - total // 2
    if mode == "causal":
        return span - 1, 0
    return 0, 0


def geometry(layer: BenchLayer) -> Geometry:
    """The numbers behind a row; raises BenchError where they do not fit together."""
    config, one_d = layer.config, layer.rank == 1
    batch, *rest = layer.input_shape
    channels = rest.pop(0) if layer.channels_first else rest.pop()
    height, width = (1, rest[0]) if one_d else (rest[0], rest[1])
    kernel = _pair(config.get("kernel_size", 3), one_d)
    strides = _pair(config.get("strides", 1), one_d)
    strides = (1, strides[1]) if one_d else strides
    dilation = _pair(config.get("dilation_rate", 1), one_d)
    mode = config.get("padding", "valid")
    row_mode, mode = mode if isinstance(mode, (list, tuple)) else ("valid" if one_d else mode, mode)
    rows = _padding(row_mode, height, kernel[0], strides[0], dilation[0])
    columns = _padding(mode, width, kernel[1], strides[1], dilation[1])
    result = Geometry(
        batch, height, width, channels, kernel, strides, dilation,
        (rows[0], columns[0]), (rows[1], columns[1]), int(config.get("depth_multiplier", 1)),
        int(config["filters"]) if layer.separable else None,
        bool(config.get("use_bias", True)), layer.activation, layer.channels_first, one_d,
        Around(**config["block"]) if "block" in config else ALONE,
    )  # fmt: skip
    if min(result.out_size) < 1:
        raise BenchError(f"{layer.name}: the kernel {kernel} does not fit into {height}x{width} pixels")
    return result


def make_data(layer: BenchLayer, seed: int = 0) -> CaseData:
    """Numbers that leave the output near unit scale, the same on every machine for a seed and a layer name."""
    geo = geometry(layer)
    rng = np.random.default_rng([seed, zlib.crc32(layer.name.encode())])

    def normal(shape: tuple[int, ...], scale: float) -> Array:
        return (rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(np.float32)

    taps = geo.kernel[0] * geo.kernel[1]
    pointwise = None if geo.filters is None else normal((geo.mid_channels, geo.filters), geo.mid_channels**-0.5)
    return CaseData(
        x=normal(geo.nhwc_in, 1.0),
        depthwise=normal((*geo.kernel, geo.channels, geo.depth_multiplier), taps**-0.5),
        pointwise=pointwise,
        bias=normal((geo.out_channels,), 0.5) if geo.use_bias else None,
    )


def own_layout(geo: Geometry, array: Array) -> Array:
    """An NHWC array in the layer's own rank and data format, contiguous."""
    if geo.channels_first:
        array = array.transpose(0, 3, 1, 2)
    if geo.one_d:
        array = array.squeeze(2 if geo.channels_first else 1)
    return np.ascontiguousarray(array)


def to_nhwc(geo: Geometry, array: Array) -> Array:
    """The inverse of :func:`own_layout`."""
    if geo.one_d:
        array = np.expand_dims(array, 2 if geo.channels_first else 1)
    return array.transpose(0, 2, 3, 1) if geo.channels_first else array


def save_case(folder: Path, layer: BenchLayer, data: CaseData, expected: Array) -> None:
    """Write what a peer's process needs to run and check one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"x": data.x, "depthwise": data.depthwise, "expected": expected}
    if data.pointwise is not None:
        arrays["pointwise"] = data.pointwise
    for name in ("bias", "middle_bias", "residual"):
        if getattr(data, name) is not None:
            arrays[name] = getattr(data, name)
    np.savez(folder / "data.npz", **arrays)
    (folder / "case.json").write_text(json.dumps(layer.to_json()), encoding="utf-8")


def load_case(folder: Path) -> tuple[BenchLayer, CaseData, Array]:
    """Read what :func:`save_case` wrote: the layer, its data and the float64 output."""
    layer = BenchLayer.from_json(json.loads((folder / "case.json").read_text(encoding="utf-8")))
    with np.load(folder / "data.npz") as stored:
        arrays = dict(stored)
    optional = [arrays.get(name) for name in ("pointwise", "bias", "middle_bias", "residual")]
    data = CaseData(arrays["x"], arrays["depthwise"], *optional)
    return layer, data, arrays["expected"]
