"""OpenVINO as it comes: on CPUs with bfloat16 units it computes in bfloat16, which its info here says."""

from __future__ import annotations

import importlib

from sepcompile.bench.errors import PeerError
from sepcompile.bench.peers.base import Settings
from sepcompile.bench.peers.openvino_f32 import OpenVINO


def create(settings: Settings) -> OpenVINO:
    if settings.isa:
        raise PeerError("OpenVINO's default precision is not run under an instruction set limit")
    return OpenVINO(settings, importlib.import_module("openvino"), "")
