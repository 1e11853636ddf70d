"""MNN: the ONNX model through its own converter, float32 ("high") precision, one session per layer."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile.bench.errors import PeerError
from sepcompile.bench.layers import Array
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings
from sepcompile.bench.peers.onnx_model import build_model, edge, from_edge

# MNN's memory plan reuses a session's input for intermediates: a second run computes on what the first one left.
# Filled again every so many calls, the numbers stay ordinary ones and the copy hardly counts (in short batches not at
# all).
REFILL = 16


class Mnn:
    """A session per layer; its input tensor is filled once."""

    def __init__(self, settings: Settings, mnn: Any) -> None:
        self._mnn, self._settings = mnn, settings

    def info(self) -> PeerInfo:
        return PeerInfo(version("MNN"), notes=f"precision high; from ONNX; input filled every {REFILL}th call")

    def prepare(self, case: Case) -> list[Candidate]:
        path = case.folder / f"mnn-{self._settings.threads}.mnn"
        _convert(build_model(case.geo, case.data), path)
        interpreter = self._mnn.Interpreter(str(path))
        config = {"backend": "CPU", "numThread": self._settings.threads, "precision": "high"}
        session = interpreter.createSession(config)
        source, target = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
        x = np.ascontiguousarray(edge(case.data.x, 4))
        kind, layout = self._mnn.Halide_Type_Float, self._mnn.Tensor_DimensionType_Caffe
        filled = self._mnn.Tensor(x.shape, kind, x, layout)
        shape = edge(np.empty(case.geo.nhwc_out, np.float32), 4).shape

        turn = itertools.cycle(range(REFILL))

        def call() -> None:
            if next(turn) == 0:
                source.copyFrom(filled)
            interpreter.runSession(session)

        def output() -> Array:
            source.copyFrom(filled)
            interpreter.runSession(session)
            y = np.ones(shape, np.float32)
            host = self._mnn.Tensor(shape, kind, y, layout)
            target.copyToHostTensor(host)
            return from_edge(np.array(host.getData(), dtype=np.float32).reshape(shape), 4)

        return [Candidate("session", call, output, keep=(interpreter, session, source, target, x, filled))]


def _convert(model: bytes, path: Path) -> None:
    source = path.with_suffix(".onnx")
    source.write_bytes(model)
    program = "import sys; from MNN.tools import mnnconvert; sys.exit(mnnconvert.main())"
    arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "bench"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    if not path.exists():
        raise PeerError(f"mnnconvert wrote nothing: {(done.stderr or done.stdout)[-300:]}")


def create(settings: Settings) -> Mnn:
    return Mnn(settings, importlib.import_module("MNN"))
