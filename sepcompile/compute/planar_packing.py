"""Weights in the layouts that planar kernels read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sepcompile.compute.planar_layer import PlanarLayer

Array = NDArray[np.float32]


def pack_planar_weights(layer: PlanarLayer, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Each weight of the layer's form as its kernel reads it, C-contiguous float32.

    depthwise (kh, kw, C, 1) -> [C][kh][kw]; pointwise (C, F) -> [panels][C][filters of a panel]; biases and PReLU's
    alphas as they are. A last panel that overlaps repeats weights.
    """
    form = layer.form
    packed = {form.depthwise.weight: weights[form.depthwise.weight][..., 0].transpose(2, 0, 1)}
    if form.pointwise is not None:
        tile = layer.record.tile_filters
        starts = np.minimum(np.arange(layer.panels) * tile, form.out_channels - tile)
        index = starts[:, None] + np.arange(tile)
        packed[form.pointwise.weight] = weights[form.pointwise.weight][:, index].transpose(1, 0, 2)
    plain = [form.middle.bias, form.final.bias, *(name for name, _ in form.alphas)]
    packed |= {name: weights[name] for name in plain if name is not None}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in packed.items()}
