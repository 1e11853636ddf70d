"""Writes data/keras2_* with tf_keras 2; run in an environment of its own, as it needs TensorFlow.

    python tests/model/make_keras2_files.py tests/model/data

The expected weights come from ``get_weights()`` and the expected outputs from tf_keras itself, beside the files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tf_keras as keras
from tf_keras import layers


def mobile() -> keras.Model:
    """A MobileNet in small, with a nested model and a layer that is called twice."""
    x = given = layers.Input((16, 16, 3), name="img")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU(6.0, name="dw_relu")(x)
    x = layers.Conv2D(8, 1, use_bias=False, name="pw")(x)
    x = skip = layers.BatchNormalization(scale=False, name="pw_bn")(x)
    inner_in = layers.Input((4, 4, 8), name="inner_in")
    y = layers.Activation("hard_sigmoid", name="inner_act")(inner_in)
    y = layers.SeparableConv2D(8, 3, padding="same", depth_multiplier=2, name="sep")(y)
    y = layers.BatchNormalization(center=False, name="inner_bn")(y)
    x = keras.Model(inner_in, y, name="inner")(x)
    shared = layers.DepthwiseConv2D((2, 3), padding="same", activation="elu", name="shared")
    x = layers.Add(name="add")([shared(x), shared(skip)])
    x = layers.Dropout(0.5, name="drop")(x)
    return keras.Model(given, x, name="mobile")


def causal() -> keras.Model:
    """A Sequential model of 1-D layers, with the padding that only Keras 2 has."""
    return keras.Sequential(
        [
            layers.SeparableConv1D(6, 3, padding="causal", input_shape=(20, 4), name="causal"),
            layers.BatchNormalization(name="bn"),
            layers.LeakyReLU(0.1, name="leaky"),
            layers.DepthwiseConv1D(3, strides=2, name="dw1"),
            layers.Conv1D(5, 1, activation="relu", name="mix"),
        ],
        name="causal_net",
    )


def write(model: keras.Model, folder: Path) -> None:
    rng = np.random.default_rng(7)
    model.set_weights(
        [np.abs(rng.normal(size=w.shape)).astype("f4") + 0.1 if "variance" in v.name else
         rng.normal(size=w.shape).astype("f4") * 0.5 for v, w in zip(model.weights, model.get_weights(), strict=True)]
    )  # fmt: skip
    name = f"keras2_{model.name}"
    model.save(folder / f"{name}.h5", include_optimizer=False)
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    (folder / f"{name}.json").write_text(model.to_json())
    x = rng.normal(size=(2, *model.input_shape[1:])).astype("f4")
    arrays = {f"weight/{v.name}": v.numpy() for v in model.weights}
    flat = {"x": x, "y": model(x).numpy()}
    if model.name == "mobile":
        names = ["stem_bn", "pw_bn"]
        outputs = keras.Model(model.input, [model.get_layer(n).output for n in names])(x)
        flat |= {f"at/{n}": y.numpy() for n, y in zip(names, outputs, strict=True)}
        flat["at/inner"] = model.get_layer("inner")(outputs[1]).numpy()
    np.savez(folder / f"{name}.npz", **flat, **arrays)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(keras.__version__)
    for build in (mobile, causal):
        write(build(), target)
