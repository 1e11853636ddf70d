"""What part a layer can play in a separable block, read from its config as strictly as a separable layer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.activations import ActivationConfig, read_activation
from sepcompile.frontend.classes import ALIASES, CLASSES, check_module, check_registered_name, resolve
from sepcompile.frontend.dtypes import Policy, read_policy
from sepcompile.frontend.generation import Generation, detect
from sepcompile.frontend.initializers import Initializer, read_initializer
from sepcompile.frontend.layers import FORMATS, LayerConfig, read_config
from sepcompile.frontend.model.graph import ModelLayer
from sepcompile.frontend.model.shapes import edges
from sepcompile.frontend.values import at, choice, fail, integer, number, plain, show, sizes, truth


@dataclass(frozen=True)
class Convolution:
    """A depthwise or separable layer: what a block is built around."""

    layer: LayerConfig
    generation: Generation


@dataclass(frozen=True)
class Mix:
    """A 1x1 convolution, the pointwise half of a separable convolution."""

    filters: int
    use_bias: bool
    activation: ActivationConfig
    rank: int
    channels_first: bool
    initializers: tuple[tuple[str, Initializer], ...]
    policy: Policy


@dataclass(frozen=True)
class Norm:
    """A BatchNormalization along one axis; at inference a scale and a shift per channel."""

    axis: int
    epsilon: float
    center: bool
    scale: bool
    initializers: tuple[tuple[str, Initializer], ...]
    policy: Policy


@dataclass(frozen=True)
class Activate:
    """An activation layer."""

    activation: ActivationConfig
    policy: Policy


@dataclass(frozen=True)
class Padding:
    """Zeros before and after, per spatial axis."""

    amounts: tuple[tuple[int, int], ...]
    channels_first: bool
    policy: Policy


@dataclass(frozen=True)
class Idle:
    """A layer that does nothing at inference, such as Dropout."""

    policy: Policy


@dataclass(frozen=True)
class Sum:
    """An addition of tensors of one shape."""

    policy: Policy


@dataclass(frozen=True)
class Other:
    """A layer that no block can take in, and why."""

    reason: str


Role = Convolution | Mix | Norm | Activate | Padding | Idle | Sum | Other

_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "ThresholdedReLU")
_COMMON = ("name", "trainable", "dtype", "batch_input_shape", "autocast")
_IDLE = {
    "Dropout": ("rate", "seed", "noise_shape"),
    "SpatialDropout1D": ("rate", "seed", "noise_shape"),
    "SpatialDropout2D": ("rate", "seed", "noise_shape", "data_format"),
    "GaussianDropout": ("rate", "seed"),
    "AlphaDropout": ("rate", "seed", "noise_shape"),
    "GaussianNoise": ("stddev", "seed"),
    "ActivityRegularization": ("l1", "l2"),
    "Identity": (),
}
# Checked or without effect on inference: moving averages are used whatever momentum made them.
_NORM_KEYS = (
    "axis", "momentum", "epsilon", "center", "scale", "synchronized", "fused", "renorm", "renorm_clipping",
    "renorm_momentum", "virtual_batch_size", "adjustment",
    *(f"{name}_initializer" for name in ("beta", "gamma", "moving_mean", "moving_variance")),
    *(f"{name}_{what}" for name in ("beta", "gamma") for what in ("regularizer", "constraint")),
)  # fmt: skip
_MIX_KEYS = (
    "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "activation", "use_bias",
    "kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer", "activity_regularizer",
    "kernel_constraint", "bias_constraint",
)  # fmt: skip


def read_role(layer: ModelLayer, *, stated: object, found: str | None, hint: str | None) -> Role:
    """The layer's part. An unusable config makes it an ``Other`` with the error as its reason, not an error: the rest
    of the model is compiled all the same.

    ``stated``, ``found`` and ``hint`` say which Keras wrote the model, as for ``generation.detect``.
    """
    try:
        return _read(layer, stated, found, hint)
    except (ConfigError, UnsupportedError) as cause:
        return Other(str(cause))


def _read(layer: ModelLayer, stated: object, found: str | None, hint: str | None) -> Role:
    name = layer.class_name
    is_ours = name in CLASSES or name in ALIASES
    reader = _READERS.get(name)
    if not is_ours and reader is None:
        return Other(f"{show(name)[1:-1]} is not compiled")
    check_module(layer.module, str(layer.where))
    config = plain(layer.config, layer.where)
    # Of the keys of other classes, only dtype tells the generation: a Conv2D has groups in both.
    evidence = config if is_ours else {"dtype": config.get("dtype")}
    generation = detect(evidence, stated=stated, found=found, hint=hint, label=str(layer.where))
    if is_ours:
        cls = resolve(name, layer.module, str(layer.where)).cls
        check_registered_name(layer.registered_name, cls, str(layer.where))
        return Convolution(read_config(cls, config, generation, layer.where), generation)
    if layer.registered_name is not None and layer.registered_name not in (name, f"Keras>{name}"):
        return Other(f"{layer.where}.registered_name={show(layer.registered_name)} is a custom class")
    assert reader is not None
    return reader(layer, config, generation)


def _check_keys(layer: ModelLayer, config: Mapping[str, Any], known: Iterable[str]) -> None:
    accepted = (*_COMMON, *known)
    for key in config:
        if key not in accepted:
            fail(at(layer.where, key), config[key], f"no such key; {layer.class_name} has: {', '.join(accepted)}")


def _policy(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Policy:
    return read_policy(config.get("dtype"), at(layer.where, "dtype"), generation.major)


def _channels_first(layer: ModelLayer, config: Mapping[str, Any]) -> bool:
    value = config.get("data_format")
    where = at(layer.where, "data_format")
    return value is not None and choice(value, where, FORMATS, any_case=True) == "channels_first"


def _initializers(
    layer: ModelLayer, config: Mapping[str, Any], defaults: Mapping[str, str]
) -> tuple[tuple[str, Initializer], ...]:
    return tuple(
        (name, read_initializer(config.get(f"{name}_initializer"), at(layer.where, f"{name}_initializer"), text))
        for name, text in defaults.items()
    )


def _mix(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    _check_keys(layer, config, _MIX_KEYS)
    rank = int(layer.class_name[-2])
    kernel = sizes(config.get("kernel_size"), rank, at(layer.where, "kernel_size"))
    strides = sizes(config.get("strides", 1), rank, at(layer.where, "strides"))
    groups = integer(config.get("groups", 1), at(layer.where, "groups"))
    if max(kernel) > 1 or max(strides) > 1 or groups > 1:
        return Other(
            f"{layer.class_name} with kernel_size={kernel}, strides={strides}, groups={groups} is not compiled: "
            "only 1x1, stride 1, one group, after a depthwise layer"
        )
    sizes(config.get("dilation_rate", 1), rank, at(layer.where, "dilation_rate"))
    choice(config.get("padding", "valid"), at(layer.where, "padding"), ("valid", "same", "causal"), any_case=True)
    return Mix(
        filters=integer(config.get("filters"), at(layer.where, "filters")),
        use_bias=truth(config.get("use_bias", True), at(layer.where, "use_bias")),
        activation=read_activation(config.get("activation"), at(layer.where, "activation"), generation),
        rank=rank,
        channels_first=_channels_first(layer, config),
        initializers=_initializers(layer, config, {"kernel": "glorot_uniform", "bias": "zeros"}),
        policy=_policy(layer, config, generation),
    )


def _norm(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    _check_keys(layer, config, _NORM_KEYS)
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if truth(config.get("renorm", False), at(layer.where, "renorm")):
        return Other(f"{layer.where}.renorm=True: batch renormalization is not compiled")
    for key in ("virtual_batch_size", "adjustment"):
        if config.get(key) is not None:
            return Other(f"{layer.where}.{key}={show(config[key])} is not compiled")
    defaults = {"gamma": "ones", "beta": "zeros", "moving_mean": "zeros", "moving_variance": "ones"}
    return Norm(
        axis=integer(axis, at(layer.where, "axis"), -8, 8),
        epsilon=number(config.get("epsilon", 1e-3), at(layer.where, "epsilon"), 0.0),
        center=truth(config.get("center", True), at(layer.where, "center")),
        scale=truth(config.get("scale", True), at(layer.where, "scale")),
        initializers=_initializers(layer, config, defaults),
        policy=_policy(layer, config, generation),
    )


def _activate(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    value = {"class_name": layer.class_name, "config": {k: v for k, v in config.items() if k != "autocast"}}
    return Activate(read_activation(value, layer.where, generation), _policy(layer, config, generation))


def _padding(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    _check_keys(layer, config, ("padding", "data_format"))
    rank = int(layer.class_name[-2])
    value = config.get("padding", 1)
    try:
        amounts = tuple(edges(value, rank))
    except ValueError:
        fail(at(layer.where, "padding"), value, f"an integer >= 0, or zeros before and after along {rank} axes")
    return Padding(amounts, _channels_first(layer, config), _policy(layer, config, generation))


def _idle(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    _check_keys(layer, config, _IDLE[layer.class_name])
    return Idle(_policy(layer, config, generation))


def _sum(layer: ModelLayer, config: Mapping[str, Any], generation: Generation) -> Role:
    _check_keys(layer, config, ())
    return Sum(_policy(layer, config, generation))


_READERS: Mapping[str, Callable[[ModelLayer, Mapping[str, Any], Generation], Role]] = {
    "Conv1D": _mix,
    "Conv2D": _mix,
    "BatchNormalization": _norm,
    "Add": _sum,
    "ZeroPadding1D": _padding,
    "ZeroPadding2D": _padding,
    **dict.fromkeys(_ACTIVATIONS, _activate),
    **dict.fromkeys(_IDLE, _idle),
}
