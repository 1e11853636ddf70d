"""ONNX Runtime's CPU provider, with inputs and outputs bound once: a call moves no data of its own."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sepcompile.bench.layers import Array
from sepcompile.bench.peers.arrays import aligned, aligned_like
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.onnx_model import build_model, edge, from_edge


class OnnxRuntime:
    """A session per layer and rank, all graph optimizations on."""

    def __init__(self, settings: Settings, ort: Any) -> None:
        self._ort, self._threads = ort, settings.threads

    def info(self) -> PeerInfo:
        notes = "channels first at its edge, as its API has it; bound inputs and outputs"
        return PeerInfo(self._ort.__version__, notes=notes)

    def prepare(self, case: Case) -> list[Candidate]:
        return [self._candidate(case, rank) for rank in ((4, 3) if case.geo.one_d else (4,))]

    def _candidate(self, case: Case, rank: int) -> Candidate:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        model = build_model(case.geo, case.data, rank)
        session = self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        x = aligned(edge(case.data.x, rank))
        y = aligned_like(edge(np.empty(case.geo.nhwc_out, np.float32), rank).shape)
        binding = session.io_binding()
        arrays = [(binding.bind_input, "x", x), (binding.bind_output, "y", y)]
        if case.data.residual is not None:
            arrays.append((binding.bind_input, "r", aligned(edge(case.data.residual, rank))))
        for bind, name, array in arrays:
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        run, raw = session._sess.run_with_iobinding, binding._iobinding

        def output() -> Array:
            return from_edge(y, rank)

        label = "2-D convolution" if rank == 4 else "1-D convolution"
        return Candidate(label, lambda: run(raw, None), output, keep=(arrays, session, binding))


def create(settings: Settings) -> OnnxRuntime:
    return OnnxRuntime(settings, importlib.import_module("onnxruntime"))
