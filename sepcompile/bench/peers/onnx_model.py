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


_LIMITS = [("low", np.array(0, np.float32)), ("high", np.array(6, np.float32))]
_PLAIN = {"relu": "Relu", "elu": "Elu", "hard_silu": "HardSwish", "linear": "Identity"}


def _activation(helper: Any, name: str, source: str, target: str) -> list[Any]:
    """Nodes from tensor ``source`` to ``target``; they may read the constants of ``_LIMITS``."""
    if name in _PLAIN:
        return [helper.make_node(_PLAIN[name], [source], [target])]
    if name == "relu6":
        return [helper.make_node("Clip", [source, "low", "high"], [target])]
    gate = f"{target}_gate"
    return [helper.make_node("Sigmoid", [source], [gate]), helper.make_node("Mul", [source, gate], [target])]


def build_model(geo: Geometry, data: CaseData, rank: int = 4) -> bytes:
    """The serialized model, from ``x`` (and ``r``, a block's residual) to ``y``."""
    onnx = importlib.import_module("onnx")
    helper = onnx.helper
    drop = (0, 1, 2, 3) if rank == 4 else (0, 1, 3)
    weights = depthwise_oihw(data.depthwise)
    constants: list[tuple[str, Array]] = [("dw", weights.reshape([weights.shape[i] for i in drop]))]
    given = {"bias": data.bias, "middle_bias": data.middle_bias}
    constants += [(name, array) for name, array in given.items() if array is not None]
    bias = ["bias"] if data.bias is not None else []
    between = ["middle_bias"] if data.middle_bias is not None else []
    last = data.pointwise is None
    nodes = [
        *_activation(helper, geo.around.before, "x", "before"),
        helper.make_node(
            "Conv", ["before", "dw", *(bias if last else between)], ["z" if last else "mid"], group=geo.channels,
            strides=spatial(geo.strides, rank), dilations=spatial(geo.dilation, rank),
            kernel_shape=spatial(geo.kernel, rank),
            pads=[*spatial(geo.pad_before, rank), *spatial(geo.pad_after, rank)],
        ),
    ]  # fmt: skip
    if data.pointwise is not None:
        nodes += _activation(helper, geo.around.middle, "mid", "middle")
        matrix = pointwise_oihw(data.pointwise)
        constants.append(("pw", matrix.reshape(matrix.shape[:rank])))
        nodes.append(helper.make_node("Conv", ["middle", "pw", *bias], ["z"], kernel_shape=[1] * (rank - 2)))
    nodes += _activation(helper, geo.activation, "z", "sum" if data.residual is not None else "y")
    if data.residual is not None:
        nodes.append(helper.make_node("Add", ["sum", "r"], ["added"]))
        nodes += _activation(helper, geo.around.last, "added", "y")
    float_type = onnx.TensorProto.FLOAT
    sizes = {"x": geo.nhwc_in, "r": geo.nhwc_out, "y": geo.nhwc_out}
    names = ["x", "r", "y"] if data.residual is not None else ["x", "y"]
    shapes = [edge(np.empty(sizes[name], np.float32), rank).shape for name in names]
    ends = [helper.make_tensor_value_info(n, float_type, s) for n, s in zip(names, shapes, strict=True)]
    limits = _LIMITS if any(node.op_type == "Clip" for node in nodes) else []
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants + limits]
    graph = helper.make_graph(nodes, "layer", ends[:-1], ends[-1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized
