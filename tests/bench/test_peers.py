"""Every installed peer computes the right thing on small layers that between them use every feature of an adapter.

``SEPCOMPILE_PEER_PYTHON`` names a Python that has more peers than the one that runs the tests.
"""

from __future__ import annotations

import os
import sys

import pytest

from sepcompile.bench import main
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.options import BenchOptions
from sepcompile.bench.peers import MODULES, OURS

PYTHON = os.environ.get("SEPCOMPILE_PEER_PYTHON", sys.executable)
LAYERS = (
    BenchLayer(
        "same_relu6", "SeparableConv2D", (1, 9, 8, 8),
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu6"},
    ),
    BenchLayer(
        "multiplier_silu", "SeparableConv2D", (1, 7, 6, 3),
        {"filters": 8, "kernel_size": [3, 2], "depth_multiplier": 2, "dilation_rate": 2, "activation": "silu"},
    ),
    BenchLayer("elu", "DepthwiseConv2D", (1, 7, 7, 8), {"kernel_size": 4, "padding": "same", "activation": "elu"}),
    BenchLayer(
        "first_hard_silu", "DepthwiseConv2D", (1, 6, 7, 7),
        {"kernel_size": 3, "use_bias": False, "activation": "hard_silu", "data_format": "channels_first"},
    ),
    BenchLayer(
        "causal_relu", "SeparableConv1D", (1, 20, 8),
        {"filters": 4, "kernel_size": 3, "dilation_rate": 4, "padding": "causal", "activation": "relu"},
    ),
    BenchLayer("batch", "DepthwiseConv1D", (3, 20, 8), {"kernel_size": 5, "strides": 2, "padding": "same"}),
)  # fmt: skip


@pytest.mark.parametrize("peer", [name for name in MODULES if name not in (OURS, "torch-compile")])
def test_peer_is_right_everywhere(peer: str) -> None:
    missing = main.describe_peers(PYTHON)[peer]
    if missing:
        pytest.skip(missing)
    options = BenchOptions(
        layers=LAYERS,
        peers=[peer],
        ours=False,
        peer_python=PYTHON,
        rounds=1,
        budget_ms=0.2,
        warm_ms=0.1,
        ceilings=False,
    )
    report = main.run(options)
    states = {r.layer: (r.status, r.reason) for r in report.results}
    assert [p.status for p in report.peers] == ["ok"], report.peers
    allowed = {"ok"} | ({"unsupported"} if peer == "ncnn" else set())
    assert {status for status, _ in states.values()} <= allowed, states
    assert len(states) == len(LAYERS)
