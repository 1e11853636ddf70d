"""The layer classes that are compiled, and every name they go by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.values import show


@dataclass(frozen=True)
class LayerClass:
    """A Keras class: its canonical name, its number of spatial axes, and whether a pointwise stage follows."""

    name: str
    rank: int
    separable: bool

    @property
    def default_name(self) -> str:
        """The name Keras gives an unnamed layer: ``separable_conv2d``."""
        kind = "separable" if self.separable else "depthwise"
        return f"{kind}_conv{self.rank}d"


CLASSES: Mapping[str, LayerClass] = MappingProxyType(
    {
        cls.name: cls
        for cls in (
            LayerClass("SeparableConv1D", 1, True),
            LayerClass("SeparableConv2D", 2, True),
            LayerClass("DepthwiseConv1D", 1, False),
            LayerClass("DepthwiseConv2D", 2, False),
        )
    }
)

# R function -> class. `layer_depthwise_conv_1d` is keras3's; the others are in both R packages.
R_FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "layer_separable_conv_1d": "SeparableConv1D",
        "layer_separable_conv_2d": "SeparableConv2D",
        "layer_depthwise_conv_1d": "DepthwiseConv1D",
        "layer_depthwise_conv_2d": "DepthwiseConv2D",
    }
)
ALIASES: Mapping[str, str] = MappingProxyType(
    {"SeparableConvolution1D": "SeparableConv1D", "SeparableConvolution2D": "SeparableConv2D"}
)

# Modules that hold these classes, in any TensorFlow or Keras: keras.layers, keras.src.layers.convolutional.x,
# tf.keras.layers, tf.compat.v1.keras.layers, tensorflow.python.keras.layers, tf_keras.src.layers....
_MODULE = re.compile(
    r"(?:(?:tf|tensorflow)\.(?:compat\.v[12]\.|python\.)?)?_?(?:tf_)?keras(?:\.api)?(?:\._v[12]\.keras)?"
    r"(?:\.src)?(?:\.legacy)?\.layers(?:\.[a-z_0-9]+){0,4}"
)
_DOTTED = re.compile(r"(?:(?P<module>[A-Za-z_][\w.]{0,200})\.)?(?P<name>[A-Za-z_]\w{0,100})", re.ASCII)
_R_PACKAGE = re.compile(r"keras3?::", re.ASCII)

# Legal Keras that is not one of ours: UnsupportedError rather than ConfigError.
_OTHER_KERAS = frozenset(
    {
        "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "Dense",
        "BatchNormalization", "Activation", "ReLU", "Sequential", "Functional", "Model", "InputLayer", "Add",
        "Multiply", "Concatenate", "ZeroPadding1D", "ZeroPadding2D", "Flatten", "Reshape", "Dropout",
        "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "GlobalAveragePooling1D",
        "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Embedding", "LSTM", "GRU",
        "LayerNormalization", "Lambda", "TimeDistributed", "Bidirectional", "Softmax", "LeakyReLU", "PReLU",
        "ELU", "Permute", "Rescaling", "Normalization",
    }
)


@dataclass(frozen=True)
class Resolved:
    """A class with what its spelling says about its origin: "keras2", "r" or None."""

    cls: LayerClass
    generation: str | None


def resolve(name: object, module: object, label: str) -> Resolved:
    """The class behind ``class_name`` and ``module``; names are only compared, nothing is imported.

    Raises ``ConfigError`` for something that is no Keras class name and ``UnsupportedError`` for another Keras class.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{label}: class_name={show(name)}: expected one of {_accepted()}")
    bare = _R_PACKAGE.sub("", name, count=1) if _R_PACKAGE.match(name) else name
    if bare in R_FUNCTIONS:
        return Resolved(CLASSES[R_FUNCTIONS[bare]], "r")
    match = _DOTTED.fullmatch(name)
    prefix, short = (match["module"], match["name"]) if match else (None, name)
    for text in (prefix, module):
        check_module(text, label)
    cls = CLASSES.get(ALIASES.get(short, short))
    if cls is None:
        if short in _OTHER_KERAS:
            raise UnsupportedError(f"{label}: class_name={show(name)} is not compiled; accepted: {_accepted()}")
        raise ConfigError(f"{label}: class_name={show(name)} is unknown; accepted: {_accepted()}")
    return Resolved(cls, module_generation(prefix) or module_generation(module))


def check_registered_name(value: object, cls: LayerClass, label: str) -> None:
    """``registered_name`` of a built-in is None or its own class name; another one is somebody's subclass."""
    names = {alias for alias, name in ALIASES.items() if name == cls.name} | {cls.name}
    if value is None or (isinstance(value, str) and value.removeprefix("Keras>") in names):
        return
    raise UnsupportedError(f"{label}: registered_name={show(value)} is a custom class; accepted: null or {cls.name!r}")


def module_generation(module: object) -> str | None:
    """ "keras2" for modules that only Keras 2 has."""
    if not isinstance(module, str):
        return None
    return "keras2" if module.startswith(("tf_keras", "tensorflow.python.keras", "tf.compat.v1")) else None


def check_module(module: object, label: str) -> None:
    """``module`` is null or a Keras layers module; a class elsewhere is somebody's own. Raises ``ConfigError``."""
    if module is None or (isinstance(module, str) and _MODULE.fullmatch(module)):
        return
    raise ConfigError(f"{label}: module={show(module)}: expected null or a Keras layers module such as 'keras.layers'")


def _accepted() -> str:
    return ", ".join(CLASSES)
