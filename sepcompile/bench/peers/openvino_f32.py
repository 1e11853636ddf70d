"""OpenVINO, told to compute in float32: its default on some CPUs is bfloat16, without a word."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sepcompile.bench.layers import Array, spatial
from sepcompile.bench.peers.arrays import aligned, aligned_like, depthwise_oihw, pointwise_oihw
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings


class OpenVINO:
    """A compiled model per layer and set-up: layout of the edges, and rank 3 or 4 for a 1-D layer."""

    def __init__(self, settings: Settings, module: Any, precision: str) -> None:
        self._ov, self._op = module, importlib.import_module("openvino.opset13")
        self._core = module.Core()
        self._config: dict[str, Any] = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": settings.threads}
        if precision:
            self._config["INFERENCE_PRECISION_HINT"] = precision
        x = self._op.parameter([1, 8, 4, 4], np.float32)
        weights = self._op.constant(np.ones((8, 8, 1, 1), np.float32))
        probe = self._op.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        self._probe = self._core.compile_model(module.Model([probe], [x]), "CPU", self._config)

    def info(self) -> PeerInfo:
        """What a compiled model says, not what was asked for."""
        element = self._probe.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(element, element)
        pinning = self._probe.get_property("ENABLE_CPU_PINNING")
        threads = int(self._probe.get_property("INFERENCE_NUM_THREADS"))
        streams = self._probe.get_property("NUM_STREAMS")
        notes = f"NUM_STREAMS {streams}, own thread pinning {'on' if pinning else 'off'}"
        return PeerInfo(self._ov.__version__, precision, threads, notes)

    def prepare(self, case: Case) -> list[Candidate]:
        ranks = (4, 3) if case.geo.one_d else (4,)
        layouts = ("channels first",) if case.geo.channels_first else ("channels first", "channels last")
        return [self._candidate(case, layout, rank) for rank in ranks for layout in layouts]

    def _candidate(self, case: Case, layout: str, rank: int) -> Candidate:
        last, geo = layout == "channels last", case.geo
        compiled = self._core.compile_model(self._model(case, rank, last), "CPU", self._config)
        request = compiled.create_infer_request()
        x = aligned(_edge(case.data.x, rank, last))
        y = aligned_like(_edge(np.empty(geo.nhwc_out, np.float32), rank, last).shape)
        request.set_input_tensor(0, self._ov.Tensor(x, shared_memory=True))
        keep = [x, y, request]
        if case.data.residual is not None:
            second = aligned(_edge(case.data.residual, rank, last))
            keep.append(second)
            request.set_input_tensor(1, self._ov.Tensor(second, shared_memory=True))
        request.set_output_tensor(self._ov.Tensor(y, shared_memory=True))
        infer = importlib.import_module("openvino._pyopenvino").InferRequest.infer

        def output() -> Array:
            full = y if rank == 4 else np.expand_dims(y, 1 if last else 2)
            return full if last else full.transpose(0, 2, 3, 1)

        label = f"{layout}, {'2-D' if rank == 4 else '1-D'}"
        return Candidate(label, lambda: infer(request, {}, True, True), output, _kernels(compiled), tuple(keep))

    def _model(self, case: Case, rank: int, last: bool) -> Any:
        op, geo, data = self._op, case.geo, case.data
        shape = list(_edge(data.x, rank, last).shape)
        x = parameter = op.parameter(shape, np.float32)
        to_first, to_last = ([0, 3, 1, 2], [0, 2, 3, 1]) if rank == 4 else ([0, 2, 1], [0, 2, 1])
        if last:
            x = op.transpose(x, op.constant(np.array(to_first)))
        x, parameters = self._activation(x, geo.around.before), [parameter]
        strides, dilation = spatial(geo.strides, rank), spatial(geo.dilation, rank)
        weights = depthwise_oihw(data.depthwise).reshape(
            geo.channels, geo.depth_multiplier, 1, *spatial(geo.kernel, rank)
        )
        pads = spatial(geo.pad_before, rank), spatial(geo.pad_after, rank)
        x = op.group_convolution(x, op.constant(weights), strides, *pads, dilation)
        ones, zeros = [1] * (rank - 2), [0] * (rank - 2)
        if data.middle_bias is not None:
            x = op.add(x, op.constant(data.middle_bias.reshape(1, -1, *ones)))
        x = self._activation(x, geo.around.middle)
        if data.pointwise is not None:
            matrix = pointwise_oihw(data.pointwise).reshape(geo.out_channels, geo.mid_channels, *ones)
            x = op.convolution(x, op.constant(matrix), ones, zeros, zeros, ones)
        if data.bias is not None:
            x = op.add(x, op.constant(data.bias.reshape(1, -1, *ones)))
        x = self._activation(x, geo.activation)
        if data.residual is not None:
            other = op.parameter(list(_edge(data.residual, rank, last).shape), np.float32)
            parameters.append(other)
            x = op.add(x, op.transpose(other, op.constant(np.array(to_first))) if last else other)
            x = self._activation(x, geo.around.last)
        if last:
            x = op.transpose(x, op.constant(np.array(to_last)))
        return self._ov.Model([x], parameters)

    def _activation(self, x: Any, name: str) -> Any:
        op = self._op
        plain = {"relu": op.relu, "silu": op.swish, "hard_silu": op.hswish}
        if name in plain:
            return plain[name](x)
        if name == "relu6":
            return op.clamp(x, 0.0, 6.0)
        return op.elu(x, 1.0) if name == "elu" else x


def _edge(array: Array, rank: int, last: bool) -> Array:
    """An NHWC array in the layout of a model's edge."""
    array = array if rank == 4 else array.squeeze(1)
    return array if last else np.moveaxis(array, -1, 1)


def _kernels(compiled: Any) -> str:
    """The primitives OpenVINO chose, which also tell the instruction set."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) not in ("Input", "Const", "Output"):
            found.append(info["primitiveType"].astype(str))
    return ", ".join(found)


def create(settings: Settings) -> OpenVINO:
    return OpenVINO(settings, importlib.import_module("openvino"), "f32")
