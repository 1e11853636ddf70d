"""Our own adapter, around a stand-in for the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from sepcompile.bench import layers, reference
from sepcompile.bench.errors import PeerError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.peers.base import Case, Settings
from sepcompile.bench.peers.ours import FAILURE, Ours

CONFIG = {"filters": 3, "kernel_size": 3, "data_format": "channels_first"}
LAYER = BenchLayer("c", "SeparableConv1D", (2, 4, 9), CONFIG)


def test_binds_arrays_in_the_layers_own_layout(tmp_path) -> None:
    geo, data = layers.geometry(LAYER), layers.make_data(LAYER)
    expected = reference.evaluate(geo, data)
    asked = []

    class Layer:
        def __call__(self, x: np.ndarray) -> np.ndarray:
            assert x.shape == (2, 4, 9) and x.flags.c_contiguous
            return layers.own_layout(geo, expected).astype(np.float32)

        def bind(self, x: np.ndarray, out: np.ndarray) -> Callable[[], None]:
            return lambda: np.copyto(out, self(x))

    def load(path: str, threads: int) -> Layer:
        asked.append((path, threads))
        return Layer()

    ours = Ours(Settings("sepcompile", threads=2), SimpleNamespace(load=load, __version__="7"))
    assert ours.info().version == "7" and ours.info().threads == 2
    (candidate,) = ours.prepare(Case(LAYER, geo, data, tmp_path))
    candidate.call()
    assert asked == [(str(tmp_path / "artifact"), 2)]
    assert reference.error_of(candidate.output(), expected) < 1e-6


def test_a_failed_compile_is_the_reason(tmp_path) -> None:
    (tmp_path / FAILURE).write_text(json.dumps({"reason": "compile: no"}))
    ours = Ours(Settings("sepcompile"), SimpleNamespace())
    with pytest.raises(PeerError, match="compile: no"):
        ours.prepare(Case(LAYER, layers.geometry(LAYER), layers.make_data(LAYER), tmp_path))
