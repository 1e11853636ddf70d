"""Stored results for what only Keras 2 does; see make_keras2_expectations.py for where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.frontend import read_layer
from sepcompile.ir import reference

ENTRIES = json.loads((Path(__file__).parent / "data" / "keras2.json").read_text())


@pytest.mark.parametrize("entry", ENTRIES, ids=[str(entry["config"]) for entry in ENTRIES])
def test_keras_2(entry: dict[str, Any]) -> None:
    config = entry["config"]
    first = config.get("data_format") == "channels_first"
    x, y = (np.asarray(entry[key]).T[np.newaxis] if first else np.asarray(entry[key])[np.newaxis] for key in "xy")
    weights = {name: np.asarray(value) for name, value in entry["weights"].items()}
    if config.get("activation") == "PReLU":
        weights["alpha"] = np.zeros(y.shape[1:])
    layer = {"class_name": "SeparableConv1D", "config": config}
    imported = read_layer(layer, input_shape=(None, *x.shape[1:]), weights=weights, keras_version="2.15")
    np.testing.assert_allclose(reference.evaluate(imported.program, imported.weights, x), y, rtol=1e-13, atol=1e-13)
