"""Layers as the tuner sees them."""

from __future__ import annotations

from sepcompile import targets
from sepcompile.codegen.variant import read_program
from sepcompile.compute.form import Form
from sepcompile.frontend import ImportedLayer, read_layer

SEPARABLE = {"class_name": "SeparableConv2D", "config": {"name": "sep", "filters": 24, "kernel_size": 3}}
FIRST = {"data_format": "channels_first"}
LAYERS = {
    "separable": ({**SEPARABLE, "config": {**SEPARABLE["config"], "padding": "same"}}, (None, 28, 28, 32)),
    "odd": ({"class_name": "SeparableConv2D", "config": {"filters": 7, "kernel_size": 5, "strides": 2}}, (1, 9, 13, 5)),
    "wide": ({"class_name": "SeparableConv2D", "config": {"filters": 512, "kernel_size": 3}}, (None, 14, 14, 512)),
    "long": ({"class_name": "SeparableConv1D", "config": {"filters": 64, "kernel_size": 33}}, (None, 300, 48)),
    "depthwise": ({"class_name": "DepthwiseConv2D", "config": {"kernel_size": 3}}, (None, 56, 56, 64)),
    "doubled": ({"class_name": "DepthwiseConv2D", "config": {"kernel_size": 3, "depth_multiplier": 2}}, (1, 9, 9, 3)),
    "row": ({"class_name": "DepthwiseConv1D", "config": {"kernel_size": 9, "padding": "same"}}, (None, 100, 20)),
    "planar": ({"class_name": "SeparableConv2D", "config": {**SEPARABLE["config"], **FIRST}}, (None, 32, 28, 28)),
    "planar_row": ({"class_name": "DepthwiseConv1D", "config": {"kernel_size": 7, **FIRST}}, (None, 20, 100)),
    "pixel": ({"class_name": "SeparableConv2D", "config": {"filters": 1, "kernel_size": 1}}, (1, 1, 1, 1)),
}
TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "cortex-a72")


def imported(name: str) -> ImportedLayer:
    config, shape = LAYERS[name]
    return read_layer(config, input_shape=shape, keras_version="3.15")


def form_of(name: str) -> Form:
    layer = imported(name)
    return read_program(layer.program, layer.weights)[0]


def target(name: str) -> targets.Target:
    return targets.get_target(name)
