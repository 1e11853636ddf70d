"""Weights in the layouts that kernels read, packed once at compile time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sepcompile.compute.layer import Layer

Array = NDArray[np.float32]


def pack_weights(layer: Layer, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Each weight of the layer's form as its kernel reads it, C-contiguous float32.

    depthwise (kh, kw, C, m) -> [CD blocks][kh][kw][lanes]; pointwise (CD, F) -> [panels][CD][vectors][lanes]; biases
    and PReLU's alphas as they are. Blocks that overlap at the end repeat weights, never pad them: a zero tap times an
    infinite input would make a NaN that the layer does not have.
    """
    form = layer.form
    packed = {form.depthwise.weight: _pack_depthwise(layer, weights[form.depthwise.weight])}
    if form.pointwise is not None:
        packed[form.pointwise.weight] = _pack_pointwise(layer, weights[form.pointwise.weight])
    plain = [form.middle.bias, form.final.bias, *(name for name, _ in form.alphas)]
    packed |= {name: np.ascontiguousarray(weights[name], np.float32) for name in plain if name is not None}
    return packed


def _starts(count: int, width: int, extent: int) -> NDArray[np.int64]:
    """First element of each of ``count`` vectors of ``width`` over ``extent``, as ``views.clamp`` computes it."""
    return np.minimum(np.arange(count) * width, extent - width)


def _pack_depthwise(layer: Layer, kernel: Array) -> Array:
    kh, kw, channels, multiplier = kernel.shape
    flat = kernel.reshape(kh, kw, channels * multiplier)
    lanes = layer.record.depthwise_lanes
    index = _starts(layer.channel_blocks, lanes, channels * multiplier)[:, None] + np.arange(lanes)
    return np.ascontiguousarray(flat[:, :, index].transpose(2, 0, 1, 3), np.float32)


def _pack_pointwise(layer: Layer, kernel: Array) -> Array:
    lanes, vectors = layer.record.lanes, layer.record.tile_vectors
    starts = _starts(layer.panels * vectors, lanes, kernel.shape[1])
    index = (starts[:, None] + np.arange(lanes)).reshape(layer.panels, vectors, lanes)
    return np.ascontiguousarray(kernel[:, index].transpose(1, 0, 2, 3), np.float32)
