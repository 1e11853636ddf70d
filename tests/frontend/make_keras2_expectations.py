"""Makes data/keras2.json: small layers with what only Keras 2 does, and their results.

    python tests/frontend/make_keras2_expectations.py

Keras 2 needs TensorFlow and is not run here. The numbers come from a direct implementation, one multiplication at a
time, of what tf-keras 2.21 documents: ``padding="causal"`` pads (kernel_size - 1) * dilation_rate zeros on the left,
``hard_sigmoid`` is clip(0.2 z + 0.5, 0, 1), and a class name as activation is that layer with default arguments.
It shares no code with sepcompile.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

ACTIVATIONS = {
    "linear": lambda z: z,
    "hard_sigmoid": lambda z: min(max(0.2 * z + 0.5, 0.0), 1.0),
    "LeakyReLU": lambda z: z if z >= 0 else 0.3 * z,
    "ReLU": lambda z: max(z, 0.0),
    "ELU": lambda z: z if z > 0 else math.expm1(z),
    "ThresholdedReLU": lambda z: z if z > 1.0 else 0.0,
    "PReLU": lambda z: max(z, 0.0),
}
CASES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": "causal"},
    {"kernel_size": 3, "padding": "causal", "strides": 2},
    {"kernel_size": 2, "padding": "causal", "dilation_rate": 3, "depth_multiplier": 2},
    {"kernel_size": 4, "padding": "causal", "data_format": "channels_first", "use_bias": False},
    *({"kernel_size": 2, "padding": "valid", "activation": name} for name in ACTIVATIONS),
]
LENGTH, CHANNELS, FILTERS = 7, 2, 3


def separable(x: list[list[float]], case: dict[str, Any], weights: dict[str, Any]) -> list[list[float]]:
    """One image (W, C) -> (W', F), written as the definition reads."""
    k, s, d, m = (case.get(key, 1) for key in ("kernel_size", "strides", "dilation_rate", "depth_multiplier"))
    if case["padding"] == "causal":
        x = [[0.0] * CHANNELS] * ((k - 1) * d) + x
    act = ACTIVATIONS[case.get("activation", "linear")]
    rows = []
    for start in range(0, len(x) - (k - 1) * d, s):
        deep = [
            sum(x[start + t * d][c] * weights["depthwise_kernel"][t][c][j] for t in range(k))
            for c in range(CHANNELS)
            for j in range(m)
        ]
        sums = [sum(deep[i] * weights["pointwise_kernel"][0][i][f] for i in range(len(deep))) for f in range(FILTERS)]
        rows.append([act(value + weights.get("bias", [0.0] * FILTERS)[f]) for f, value in enumerate(sums)])
    return rows


def numbers(rng: random.Random, *shape: int) -> Any:
    """Nested lists of multiples of 1/16, exact in every float type."""
    if not shape:
        return rng.randint(-32, 32) / 16
    return [numbers(rng, *shape[1:]) for _ in range(shape[0])]


def main() -> None:
    """Writes the file."""
    rng, entries = random.Random(0), []
    for case in CASES:
        m = case.get("depth_multiplier", 1)
        weights = {
            "depthwise_kernel": numbers(rng, case["kernel_size"], CHANNELS, m),
            "pointwise_kernel": numbers(rng, 1, CHANNELS * m, FILTERS),
        }
        weights |= {"bias": numbers(rng, FILTERS)} if case.get("use_bias", True) else {}
        x = numbers(rng, LENGTH, CHANNELS)
        y = separable(x, case, weights)
        entries.append({"config": {"filters": FILTERS, **case}, "weights": weights, "x": x, "y": y})
    target = Path(__file__).parent / "data" / "keras2.json"
    target.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


if __name__ == "__main__":
    main()
