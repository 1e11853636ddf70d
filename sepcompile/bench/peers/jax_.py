"""JAX on XLA:CPU: the layer jitted with its weights as constants."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from sepcompile.bench.layers import Array
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings


class Jax:
    """XLA:CPU takes its thread count from the CPUs this process may use."""

    def __init__(self, settings: Settings, jax: Any) -> None:
        self._jax, self._settings = jax, settings

    def info(self) -> PeerInfo:
        note = "confined to as many CPUs as threads, since XLA:CPU has no other thread setting"
        return PeerInfo(self._jax.__version__, threads=len(os.sched_getaffinity(0)), notes=note)

    def prepare(self, case: Case) -> list[Candidate]:
        layouts = ("NCHW", "NHWC")[: 1 if case.geo.channels_first else 2]
        result = [self._candidate(case, layout, layout, self._convolution(case, layout)) for layout in layouts]
        result.append(self._candidate(case, layouts[-1], "sum of shifts", self._shifts(case)))
        return result

    def _candidate(self, case: Case, layout: str, label: str, function: Callable[[Any], Any]) -> Candidate:
        last = layout == "NHWC"
        x = self._jax.device_put(case.data.x if last else np.ascontiguousarray(case.data.x.transpose(0, 3, 1, 2)))
        compiled = self._jax.jit(function).lower(x).compile()
        result: list[Any] = [None]

        def call() -> None:
            result[0] = compiled(x).block_until_ready()

        def output() -> Array:
            y = np.asarray(result[0])
            return y if last else y.transpose(0, 2, 3, 1)

        return Candidate(label, call, output, keep=(x,))

    def _convolution(self, case: Case, layout: str) -> Callable[[Any], Any]:
        jax, geo, data = self._jax, case.geo, case.data
        conv = jax.lax.conv_general_dilated
        numbers = (layout, "HWIO", layout)
        depthwise = data.depthwise.reshape(*geo.kernel, 1, geo.mid_channels)
        pads = list(zip(geo.pad_before, geo.pad_after, strict=True))
        bias_shape = (1, 1, 1, -1) if layout == "NHWC" else (1, -1, 1, 1)
        act = self._activation(geo.activation)

        def run(x: Any) -> Any:
            y = conv(
                x, depthwise, geo.strides, pads, rhs_dilation=geo.dilation, dimension_numbers=numbers,
                feature_group_count=geo.channels,
            )  # fmt: skip
            if data.pointwise is not None:
                y = conv(y, data.pointwise[None, None], (1, 1), "VALID", dimension_numbers=numbers)
            if data.bias is not None:
                y = y + data.bias.reshape(bias_shape)
            return act(y)

        return run

    def _shifts(self, case: Case) -> Callable[[Any], Any]:
        """XLA:CPU's grouped convolution is slow; one multiply-add per tap, which it fuses, and a matrix product."""
        jnp, geo, data = self._jax.numpy, case.geo, case.data
        pads = ((0, 0), *zip(geo.pad_before, geo.pad_after, strict=True), (0, 0))
        taps = [(i, j) for i in range(geo.kernel[0]) for j in range(geo.kernel[1])]
        act = self._activation(geo.activation)

        def window(x: Any, i: int, j: int) -> Any:
            (top, left), (sh, sw), (h, w) = (i * geo.dilation[0], j * geo.dilation[1]), geo.strides, geo.out_size
            return x[:, top : top + (h - 1) * sh + 1 : sh, left : left + (w - 1) * sw + 1 : sw, :, None]

        def run(x: Any) -> Any:
            x = jnp.pad(jnp.transpose(x, (0, 2, 3, 1)) if geo.channels_first else x, pads)
            y = sum(window(x, i, j) * data.depthwise[i, j] for i, j in taps)
            y = jnp.reshape(y, (-1, geo.mid_channels))
            if data.pointwise is not None:
                y = y @ data.pointwise
            if data.bias is not None:
                y = y + data.bias
            y = act(jnp.reshape(y, geo.nhwc_out))
            return jnp.transpose(y, (0, 3, 1, 2)) if geo.channels_first else y

        return run

    def _activation(self, name: str) -> Callable[[Any], Any]:
        nn = self._jax.nn
        table: dict[str, Callable[[Any], Any]] = {
            "relu": nn.relu,
            "relu6": nn.relu6,
            "elu": nn.elu,
            "silu": nn.silu,
            "hard_silu": nn.hard_silu,
        }
        return table.get(name, lambda y: y)


def create(settings: Settings) -> Jax:
    if not settings.cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"
    return Jax(settings, importlib.import_module("jax"))
