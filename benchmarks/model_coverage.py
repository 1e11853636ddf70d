"""How much of whole networks the compiled blocks cover.

    KERAS_BACKEND=jax python benchmarks/model_coverage.py [--json] [NETWORK ...]

Networks are those of keras.applications at their usual sizes with random weights, and the DS-CNN of keyword spotting.
Nothing is compiled and nothing is timed: shares are of multiply-accumulates, counted from the shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from keras import applications

from sepcompile.frontend.model import ModelReport, read_model, report
from tests.model.zoo import ds_cnn

NETWORKS: dict[str, Callable[[], Any]] = {
    "DS-CNN": ds_cnn,
    "MobileNet": lambda: applications.MobileNet(weights=None),
    "MobileNetV2": lambda: applications.MobileNetV2(weights=None),
    "MobileNetV3Small": lambda: applications.MobileNetV3Small((224, 224, 3), weights=None),
    "Xception": lambda: applications.Xception(weights=None),
    "NASNetMobile": lambda: applications.NASNetMobile(weights=None),
    "EfficientNetB0": lambda: applications.EfficientNetB0(weights=None),
}
SEPARABLE = ("SeparableConv1D", "SeparableConv2D", "DepthwiseConv1D", "DepthwiseConv2D")


def measure(name: str) -> dict[str, Any]:
    """The figures of one network."""
    found = report(read_model(NETWORKS[name]()))
    separable = [row for row in found.layers if row.class_name in SEPARABLE]
    return {
        "network": name,
        "layers": len(found.layers),
        "separable": len(separable),
        "compiled": sum(row.artifact is not None for row in separable),
        "covered_layers": sum(row.artifact is not None for row in found.layers),
        "mflop": 2 * found.macs / 1e6,
        "alone": sum(row.macs or 0 for row in separable if row.artifact) / found.macs,
        "covered": found.covered_macs / found.macs,
        "left": left(found),
    }


def left(found: ModelReport) -> dict[str, float]:
    """The classes that most of the other work is in, with their shares."""
    shares: Counter[str] = Counter()
    for row in found.layers:
        if row.artifact is None and row.macs:
            shares[row.class_name] += row.macs
    return {name: macs / found.macs for name, macs in shares.most_common(2)}


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    unknown = set(options.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(NETWORKS)}")
    rows = [measure(name) for name in options.networks or NETWORKS]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("network           layers  separable  compiled  layers in blocks     MFLOP  those alone  blocks  the rest")
    for row in rows:
        rest = ", ".join(f"{name} {share:.1%}" for name, share in row["left"].items())
        print(
            f"{row['network']:<16} {row['layers']:>7} {row['separable']:>10} {row['compiled']:>9} "
            f"{row['covered_layers']:>17} {row['mflop']:>9.1f} {row['alone']:>12.1%} {row['covered']:>7.1%}  {rest}"
        )


if __name__ == "__main__":
    main()
