"""LiteRT with XNNPACK: the layer as a .tflite model, written here since no converter is at hand."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import numpy as np

from sepcompile.bench.layers import own_layout, to_nhwc
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.tflite_model import build_model


class LiteRT:
    """An interpreter per layer; XNNPACK is the default delegate of the wheel."""

    def __init__(self, settings: Settings, interpreter: Any) -> None:
        self._threads, self._interpreter = settings.threads, interpreter

    def info(self) -> PeerInfo:
        return PeerInfo(version("ai-edge-litert"), notes="XNNPACK delegate; interpreter without Python checks per call")

    def prepare(self, case: Case) -> list[Candidate]:
        if not case.geo.one_d:
            return [self._candidate(case, "nhwc", tall=False)]
        # The same memory as one row or as one column: the kernels differ.
        return [self._candidate(case, "one row", tall=False), self._candidate(case, "one column", tall=True)]

    def _candidate(self, case: Case, label: str, *, tall: bool) -> Candidate:
        content = build_model(case.geo, case.data, tall=tall)
        interpreter = self._interpreter.Interpreter(model_content=content, num_threads=self._threads)
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        target = interpreter.get_output_details()[0]["index"]
        x = own_layout(case.geo, case.data.x)
        interpreter.set_tensor(source, x.reshape(interpreter.get_input_details()[0]["shape"]))
        if case.data.residual is not None:
            second = interpreter.get_input_details()[1]
            interpreter.set_tensor(second["index"], case.data.residual.reshape(second["shape"]))
        out_shape = own_layout(case.geo, np.empty(case.geo.nhwc_out, np.float32)).shape

        def output() -> Any:
            return to_nhwc(case.geo, interpreter.get_tensor(target).reshape(out_shape))

        evidence = _delegated(interpreter, source, target)
        return Candidate(label, interpreter._interpreter.Invoke, output, evidence, (interpreter, content))


def _delegated(interpreter: Any, source: int, target: int) -> str:
    """Whether one XNNPACK node leads from the input to the output, or only covers a part of the way."""
    nodes = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    if any(source in node["inputs"] and target in node["outputs"] for node in nodes):
        return "all in XNNPACK"
    return "partly in XNNPACK" if nodes else "no XNNPACK"


def create(settings: Settings) -> LiteRT:
    return LiteRT(settings, importlib.import_module("ai_edge_litert.interpreter"))
