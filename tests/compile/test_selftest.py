"""Self-tests sampled from windows hold the same numbers as those of the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from sepcompile.codegen import selftest
from sepcompile.ir.reference import evaluate
from tests.compile.cases import read

CASES = [
    ("SeparableConv2D", {"filters": 9, "kernel_size": 3, "strides": 2, "padding": "same"}, (None, 11, 12, 5)),
    ("SeparableConv2D", {"filters": 6, "kernel_size": (3, 2), "data_format": "channels_first"}, (2, 4, 9, 8)),
    ("SeparableConv2D", {"filters": 8, "kernel_size": 3, "activation": "glu", "padding": "same"}, (None, 7, 7, 3)),
    ("SeparableConv1D", {"filters": 7, "kernel_size": 5, "dilation_rate": 3, "padding": "same"}, (None, 40, 4)),
    ("DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2, "data_format": "channels_first"}, (None, 3, 30)),
    ("DepthwiseConv2D", {"kernel_size": 4, "activation": "softmax", "padding": "same"}, (3, 6, 5, 6)),
]


@pytest.mark.parametrize(("name", "config", "shape"), CASES)
def test_sampled_is_as_whole(
    name: str, config: dict[str, object], shape: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = read(name, config, shape, keras_version="3.15")
    monkeypatch.setattr(selftest, "WHOLE_ELEMENTS", 0)
    sampled = selftest.make_selftest(layer.program, layer.weights)
    whole = evaluate(layer.program, layer.weights, sampled.x).reshape(-1)
    assert 0 < sampled.positions.size <= selftest.SAMPLES
    np.testing.assert_allclose(sampled.expected, whole[sampled.positions], rtol=1e-12, atol=1e-13)
    assert np.all(sampled.tolerance > 0)


def test_an_activation_along_the_image_needs_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"filters": 3, "kernel_size": 1, "activation": "softmax", "data_format": "channels_first"}
    layer = read("SeparableConv1D", config, (None, 2, 30), keras_version="3.15")
    monkeypatch.setattr(selftest, "WHOLE_ELEMENTS", 0)
    test = selftest.make_selftest(layer.program, layer.weights)
    assert test.positions.size == 90
