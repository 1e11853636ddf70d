"""Writes a layer as a TensorFlow Lite flatbuffer, with the schema that comes with ai-edge-litert."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sepcompile.bench.layers import Array, CaseData, Geometry, Pair

FUSED = {"linear": "NONE", "relu": "RELU", "relu6": "RELU6"}


class _Graph:
    """The one subgraph of a model while it is built; tensors are their index."""

    def __init__(self, schema: Any) -> None:
        self.s = schema
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(self, shape: tuple[int, ...], data: Array | None = None, kind: str = "FLOAT32") -> int:
        tensor = self.s.TensorT()
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.type = getattr(self.s.TensorType, kind)
        tensor.name = f"t{len(self.tensors)}".encode()
        tensor.buffer = 0
        if data is not None:
            buffer = self.s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), dtype=np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, data: Array) -> int:
        return self.tensor(data.shape, data, "INT32" if data.dtype == np.int32 else "FLOAT32")

    def operator(self, name: str, inputs: list[int], shape: tuple[int, ...], options: Any = None) -> int:
        code = self.s.OperatorCodeT()
        code.builtinCode = getattr(self.s.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        operator = self.s.OperatorT()
        operator.opcodeIndex = len(self.codes)
        operator.inputs = np.array(inputs, dtype=np.int32)
        result = self.tensor(shape)
        operator.outputs = np.array([result], dtype=np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(self.s.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self.codes.append(code)
        self.operators.append(operator)
        return result

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(d) for d in self.tensors[tensor].shape)

    def transpose(self, x: int, perm: tuple[int, ...]) -> int:
        shape = tuple(self.shape(x)[p] for p in perm)
        order = self.constant(np.array(perm, dtype=np.int32))
        return self.operator("TRANSPOSE", [x, order], shape, self.s.TransposeOptionsT())

    def finish(self, sources: list[int], target: int) -> bytes:
        subgraph = self.s.SubGraphT()
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs = np.array(sources, dtype=np.int32)
        subgraph.outputs = np.array([target], dtype=np.int32)
        model = self.s.ModelT()
        model.version, model.subgraphs = 3, [subgraph]
        model.buffers, model.operatorCodes = self.buffers, self.codes
        builder = importlib.import_module("flatbuffers").Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _same(size: Pair, geo: Geometry) -> bool:
    """Whether TensorFlow's SAME pads as this layer does."""
    for i in range(2):
        span = (geo.kernel[i] - 1) * geo.dilation[i] + 1
        total = max((-(-size[i] // geo.strides[i]) - 1) * geo.strides[i] + span - size[i], 0)
        if (geo.pad_before[i], geo.pad_after[i]) != (total // 2, total - total // 2):
            return False
    return True


def _flip(pair: Pair, tall: bool) -> Pair:
    return (pair[1], pair[0]) if tall else pair


def _flip_shape(shape: tuple[int, ...], tall: bool) -> tuple[int, ...]:
    return (shape[0], shape[2], shape[1], shape[3]) if tall else shape


def _depthwise(graph: _Graph, x: int, geo: Geometry, data: CaseData, tall: bool) -> int:
    s = graph.s
    options = s.DepthwiseConv2DOptionsT()
    options.strideH, options.strideW = _flip(geo.strides, tall)
    options.dilationHFactor, options.dilationWFactor = _flip(geo.dilation, tall)
    options.depthMultiplier = geo.depth_multiplier
    options.padding = s.Padding.VALID
    if geo.padded and _same((geo.height, geo.width), geo):
        options.padding = s.Padding.SAME
    elif geo.padded:
        before, after = _flip(geo.pad_before, tall), _flip(geo.pad_after, tall)
        pads = np.array([(0, 0), *zip(before, after, strict=True), (0, 0)], dtype=np.int32)
        shape = tuple(int(d + sum(p)) for d, p in zip(graph.shape(x), pads, strict=True))
        x = graph.operator("PAD", [x, graph.constant(pads)], shape, s.PadOptionsT())
    weights = data.depthwise.reshape(1, *geo.kernel, geo.mid_channels)
    inputs = [x, graph.constant(_transposed(weights) if tall else weights)]
    activation, bias = (geo.activation, data.bias) if geo.filters is None else (geo.around.middle, data.middle_bias)
    options.fusedActivationFunction = getattr(s.ActivationFunctionType, FUSED.get(activation, "NONE"))
    inputs.append(graph.constant(bias if bias is not None else np.zeros(geo.mid_channels, dtype=np.float32)))
    shape = _flip_shape((geo.batch, *geo.out_size, geo.mid_channels), tall)
    return _activation(graph, graph.operator("DEPTHWISE_CONV_2D", inputs, shape, options), activation)


def _transposed(weights: Array) -> Array:
    return np.ascontiguousarray(weights.transpose(0, 2, 1, 3))


def _pointwise(graph: _Graph, x: int, geo: Geometry, data: CaseData) -> int:
    if data.pointwise is None:
        return x
    s = graph.s
    options = s.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = s.Padding.VALID, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = getattr(s.ActivationFunctionType, FUSED.get(geo.activation, "NONE"))
    weights = graph.constant(np.ascontiguousarray(data.pointwise.T)[:, None, None, :])
    bias = data.bias if data.bias is not None else np.zeros(geo.out_channels, dtype=np.float32)
    shape = (*graph.shape(x)[:3], geo.out_channels)
    result = graph.operator("CONV_2D", [x, weights, graph.constant(bias)], shape, options)
    return _activation(graph, result, geo.activation)


def _residual(graph: _Graph, x: int, other: int, activation: str) -> int:
    options = graph.s.AddOptionsT()
    options.fusedActivationFunction = getattr(graph.s.ActivationFunctionType, FUSED.get(activation, "NONE"))
    return _activation(graph, graph.operator("ADD", [x, other], graph.shape(x), options), activation)


def _before(graph: _Graph, x: int, name: str) -> int:
    """An activation that no operator before it can take in."""
    fused = FUSED.get(name, "NONE")
    return graph.operator(fused, [x], graph.shape(x)) if fused != "NONE" else _activation(graph, x, name)


def _activation(graph: _Graph, x: int, name: str) -> int:
    """Those that are operators of their own."""
    shape = graph.shape(x)
    if name == "elu":
        return graph.operator("ELU", [x], shape)
    if name == "hard_silu":
        return graph.operator("HARD_SWISH", [x], shape, graph.s.HardSwishOptionsT())
    if name == "silu":
        return graph.operator("MUL", [x, graph.operator("LOGISTIC", [x], shape)], shape, graph.s.MulOptionsT())
    return x


def build_model(geo: Geometry, data: CaseData, *, tall: bool = False) -> bytes:
    """The layer as a model; ``tall`` turns a 1-D layer's row into a column, which is the same memory."""
    graph = _Graph(importlib.import_module("ai_edge_litert.schema_py_generated"))
    shape = _flip_shape(geo.nhwc_in, tall)
    if geo.channels_first:
        source = graph.tensor((shape[0], shape[3], shape[1], shape[2]))
        x = graph.transpose(source, (0, 2, 3, 1))
    else:
        x = source = graph.tensor(shape)
    sources = [source]
    x = _pointwise(graph, _depthwise(graph, _before(graph, x, geo.around.before), geo, data, tall), geo, data)
    if geo.around.residual:
        sources.append(graph.tensor(graph.shape(x)))
        x = _residual(graph, x, sources[1], geo.around.last)
    if geo.channels_first:
        x = graph.transpose(x, (0, 3, 1, 2))
    return graph.finish(sources, x)
