"""Real Keras 3 as the oracle: builds a layer from a config, gives it weights and runs it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from sepcompile.frontend import ImportedLayer, read_layer
from sepcompile.ir import reference
from sepcompile.ir.rounding import EPS_BFLOAT16


def build(name: str, config: dict[str, Any], shape: tuple[int | None, ...], seed: int = 0) -> Any:
    """A Keras layer with random weights; called once so that activation layers have theirs too."""
    layer = getattr(keras.layers, name).from_config(dict(config))
    layer(np.zeros([size or 1 for size in shape], layer.compute_dtype))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") * 0.5 for w in layer.get_weights()])
    return layer


def sample(shape: tuple[int | None, ...], dtype: str, batch: int = 2, seed: int = 1) -> np.ndarray:
    """A random input; ``batch`` where it is dynamic."""
    return np.random.default_rng(seed).normal(size=[size or batch for size in shape]).astype(dtype)


def assert_same(imported: ImportedLayer, layer: Any, x: np.ndarray) -> None:
    """Keras's result is within the error bound of the float64 reference, and equal where it is not finite."""
    got = np.asarray(layer(x))
    program = imported.program
    assert str(got.dtype) == program.output.dtype
    assert got.shape[1:] == program.output.shape[1:]
    narrow = "float16" in (program.input.dtype, program.output.dtype)
    eps = reference.EPS_FLOAT16 if narrow else reference.EPS_FLOAT32
    if program.input.dtype == "bfloat16":  # Keras rounds to it after each operation
        eps = EPS_BFLOAT16
    want = reference.evaluate(program, imported.weights, x)
    bound = reference.error_bound(program, imported.weights, x, eps)
    with np.errstate(all="ignore"):
        fine = (np.abs(got.astype("float64") - want) <= bound) | (got == want) | (np.isnan(got) & np.isnan(want))
        fine |= np.isinf(bound) & ~np.isnan(want)
    assert fine.all(), f"{(~fine).sum()} of {fine.size}: {got[~fine][:3]} {want[~fine][:3]} bound {bound[~fine][:3]}"


def check(name: str, config: dict[str, Any], shape: tuple[int | None, ...], seed: int = 0) -> ImportedLayer:
    """Reads the config and compares with Keras."""
    layer = build(name, config, shape, seed)
    envelope = {"class_name": name, "config": config}
    imported = read_layer(envelope, input_shape=shape, weights=layer.get_weights(), keras_version="3.15")
    assert_same(imported, layer, sample(shape, layer.compute_dtype))
    return imported
