"""The compiled artifact, loaded as a user loads it. It was compiled before: the compiler is not in this process."""

from __future__ import annotations

import importlib
import json
from typing import Any

from sepcompile.bench.errors import PeerError
from sepcompile.bench.layers import own_layout, to_nhwc
from sepcompile.bench.peers.arrays import aligned, aligned_like
from sepcompile.bench.peers.base import Candidate, Case, PeerInfo, Settings

# Where the driver leaves a layer's artifact, or the reason why there is none.
ARTIFACT, FAILURE = "artifact", "artifact-error.json"


class Ours:
    """``sepcompile.load``, with the arrays bound as the peers' are."""

    def __init__(self, settings: Settings, package: Any) -> None:
        self._threads, self._package = settings.threads, package

    def info(self) -> PeerInfo:
        version = str(getattr(self._package, "__version__", "development"))
        return PeerInfo(version, threads=self._threads, notes="artifact through sepcompile.load, layer.bind(x, out=y)")

    def prepare(self, case: Case) -> list[Candidate]:
        failure = case.folder / FAILURE
        if failure.exists():
            raise PeerError(str(json.loads(failure.read_text(encoding="utf-8"))["reason"]))
        layer = self._package.load(str(case.folder / ARTIFACT), threads=self._threads)
        arrays = (case.data.x,) if case.data.residual is None else (case.data.x, case.data.residual)
        inputs = [aligned(own_layout(case.geo, array)) for array in arrays]
        y = aligned_like(layer(*inputs).shape)
        return [Candidate("artifact", layer.bind(*inputs, out=y), lambda: to_nhwc(case.geo, y), keep=(layer,))]


def create(settings: Settings) -> Ours:
    return Ours(settings, importlib.import_module("sepcompile"))
