"""Prepares what all peers share: each layer's data and float64 output on disk, and our own artifact beside it."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile.bench.layers import BenchLayer, CaseData, Geometry, geometry, make_data, save_case
from sepcompile.bench.peers.ours import ARTIFACT, FAILURE
from sepcompile.bench.reference import evaluate


def keras_weights(layer: BenchLayer, geo: Geometry, data: CaseData) -> dict[str, Any]:
    """The case's weights under Keras's names and in Keras's shapes."""
    depthwise = data.depthwise[0] if layer.rank == 1 else data.depthwise
    weights = {"depthwise_kernel": np.ascontiguousarray(depthwise)}
    if data.pointwise is not None:
        ones = (1,) * layer.rank
        weights["pointwise_kernel"] = data.pointwise.reshape(*ones, geo.mid_channels, geo.out_channels)
    if data.bias is not None:
        weights["bias"] = data.bias
    return weights


def write_cases(layers: Sequence[BenchLayer], folder: Path, seed: int) -> None:
    """Data and expected output of every layer."""
    for layer in layers:
        data = make_data(layer, seed)
        save_case(folder / layer.name, layer, data, evaluate(geometry(layer), data))


def compile_ours(
    layer: BenchLayer,
    folder: Path,
    target: str | Sequence[str],
    seed: int,
    compile_: Callable[..., object] | None = None,
) -> str:
    """Compile one layer into its case's folder; returns the reason of a failure, or an empty string."""
    call = compile_ or importlib.import_module("sepcompile").compile
    failure, artifact = folder / FAILURE, folder / ARTIFACT
    folder.mkdir(parents=True, exist_ok=True)
    failure.unlink(missing_ok=True)
    shutil.rmtree(artifact, ignore_errors=True)
    source = {"class_name": layer.class_name, "config": {"name": layer.name, **layer.config}}
    weights = keras_weights(layer, geometry(layer), make_data(layer, seed))
    try:
        call(source, input_shape=layer.input_shape, target=target, weights=weights, output=str(artifact))
    except Exception as error:  # whatever the compiler throws becomes the row's reason
        reason = f"compile: {type(error).__name__}: {error}"
        failure.write_text(json.dumps({"reason": reason[:500]}), encoding="utf-8")
        return reason
    return ""
