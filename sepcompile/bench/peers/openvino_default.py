"""OpenVINO as it comes: on CPUs with bfloat16 units it computes in bfloat16, which its info here says."""

from __future__ import annotations

import importlib

from sepcompile.bench.peers.base import Settings
from sepcompile.bench.peers.openvino_f32 import OpenVINO


def create(settings: Settings) -> OpenVINO:
    return OpenVINO(settings, importlib.import_module("openvino"), "")
