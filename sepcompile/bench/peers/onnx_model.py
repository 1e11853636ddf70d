"""Writes a layer as an ONNX model: grouped convolution, 1x1 convolution with bias, activation; channels first."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sepcompile.bench.layers import Array, CaseData, Geometry, spatial
from sepcompile.bench.peers.arrays import depthwise_oihw, pointwise_oihw

OPSET, IR_VERSION = 17, 8


def edge(array: Array, rank: int) -> Array:
    """An NHWC array as the model's NCHW (rank 4) or NCW (rank 3)."""
    return np.moveaxis(array if rank == 4 else array.squeeze(1), -1, 1)


def from_edge(array: Array, rank: int) -> Array:
    """The inverse of :func:`edge`."""
    moved = np.moveaxis(array, 1, -1)
    return moved if rank == 4 else np.expand_dims(moved, 1)


def _activation(helper: Any, name: str) -> tuple[list[Any], list[tuple[str, Array]]]:
    """Nodes from tensor ``z`` to ``y``, and the constants they read."""
    plain = {"relu": "Relu", "elu": "Elu", "hard_silu": "HardSwish", "linear": "Identity"}
    if name in plain:
        return [helper.make_node(plain[name], ["z"], ["y"])], []
    if name == "relu6":
        limits = [("low", np.array(0, np.float32)), ("high", np.array(6, np.float32))]
        return [helper.make_node("Clip", ["z", "low", "high"], ["y"])], limits
    return [helper.make_node("Sigmoid", ["z"], ["s"]), helper.make_node("Mul", ["z", "s"], ["y"])], []


def build_model(geo: Geometry, data: CaseData, rank: int = 4) -> bytes:
    """The serialized model, from ``x`` to ``y``."""
    onnx = importlib.import_module("onnx")
    helper = onnx.helper
    drop = (0, 1, 2, 3) if rank == 4 else (0, 1, 3)
    weights = depthwise_oihw(data.depthwise)
    constants: list[tuple[str, Array]] = [("dw", weights.reshape([weights.shape[i] for i in drop]))]
    bias = ["bias"] if data.bias is not None else []
    if data.bias is not None:
        constants.append(("bias", data.bias))
    last = data.pointwise is None
    nodes = [
        helper.make_node(
            "Conv", ["x", "dw", *(bias if last else [])], ["z" if last else "mid"], group=geo.channels,
            strides=spatial(geo.strides, rank), dilations=spatial(geo.dilation, rank),
            kernel_shape=spatial(geo.kernel, rank),
            pads=[*spatial(geo.pad_before, rank), *spatial(geo.pad_after, rank)],
        )
    ]  # fmt: skip
    if data.pointwise is not None:
        matrix = pointwise_oihw(data.pointwise)
        constants.append(("pw", matrix.reshape(matrix.shape[:rank])))
        nodes.append(helper.make_node("Conv", ["mid", "pw", *bias], ["z"], kernel_shape=[1] * (rank - 2)))
    extra, more = _activation(helper, geo.activation)
    float_type = onnx.TensorProto.FLOAT
    shapes = [edge(np.empty(shape, np.float32), rank).shape for shape in (geo.nhwc_in, geo.nhwc_out)]
    ends = [helper.make_tensor_value_info(n, float_type, s) for n, s in zip("xy", shapes, strict=True)]
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants + more]
    graph = helper.make_graph([*nodes, *extra], "layer", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized
