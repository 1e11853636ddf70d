"""A layer's arguments, checked and typed: ``dict`` -> ``LayerConfig``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sepcompile.errors import ConfigError, UnsupportedError
from sepcompile.frontend.activations import ActivationConfig, read_activation
from sepcompile.frontend.classes import LayerClass
from sepcompile.frontend.dtypes import Policy, read_policy
from sepcompile.frontend.generation import Generation
from sepcompile.frontend.initializers import Initializer, read_initializer
from sepcompile.frontend.keys import KEYS, allowed
from sepcompile.frontend.training import constraint, regularizer
from sepcompile.frontend.values import at, choice, fail, integer, printable, show, sizes, truth
from sepcompile.ir.stages import Origin

FORMATS = ("channels_last", "channels_first")


@dataclass(frozen=True)
class LayerConfig:
    """A depthwise or separable layer with every argument resolved.

    ``filters`` is None for the depthwise classes. ``ignored`` holds fields that were checked and have no effect at
    inference, ``where`` begins the origin of every error and every stage.
    """

    cls: LayerClass
    name: str
    filters: int | None
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    channels_first: bool
    dilation_rate: tuple[int, ...]
    depth_multiplier: int
    activation: ActivationConfig
    use_bias: bool
    policy: Policy
    initializers: tuple[tuple[str, Initializer], ...]
    where: Origin
    ignored: tuple[tuple[str, Any], ...] = ()

    @property
    def output_dtype(self) -> str:
        """An activation layer's own policy decides the dtype that leaves the layer."""
        return self.activation.dtype or self.policy.compute

    def to_config(self) -> dict[str, Any]:
        """The arguments as plain data, under Keras's names, for a manifest."""
        result: dict[str, Any] = {"class_name": self.cls.name, "name": self.name}
        result |= {} if self.filters is None else {"filters": self.filters}
        result |= {key: list(getattr(self, key)) for key in ("kernel_size", "strides", "dilation_rate")}
        result["padding"] = self.padding
        result["data_format"] = FORMATS[self.channels_first]
        result["depth_multiplier"] = self.depth_multiplier
        result["activation"] = self.activation.to_config()
        result["use_bias"] = self.use_bias
        result["dtype"] = self.policy.name
        return result | {key: initializer.to_config() for key, initializer in self.initializers}


def origin(cls: LayerClass, config: Mapping[str, Any], label: str = "config") -> Origin:
    """Where the fields of a layer come from, as errors print it: ``SeparableConv2D "sep_1"``."""
    name = config.get("name")
    source = cls.name if label in ("config", "layer object") else f"{label}: {cls.name}"
    return Origin(source, printable(name) if isinstance(name, str) else cls.default_name)


def read_config(cls: LayerClass, config: Mapping[str, Any], generation: Generation, where: Origin) -> LayerConfig:
    """Every key of a plain-data config consumed, recorded as ignored, or refused by name.

    Raises ``ConfigError`` for an unknown key or a value that does not fit this class and this Keras, and
    ``UnsupportedError`` for a legal one that is not compiled.
    """
    _check_keys(cls, config, generation, where)
    strides = sizes(config.get("strides", 1), cls.rank, at(where, "strides"))
    dilation = sizes(config.get("dilation_rate", 1), cls.rank, at(where, "dilation_rate"))
    _check_strided_dilation(strides, dilation, generation, where)
    return LayerConfig(
        cls=cls,
        name=_name(cls, config, generation, where),
        filters=integer(config["filters"], at(where, "filters")) if cls.separable else None,
        kernel_size=sizes(config["kernel_size"], cls.rank, at(where, "kernel_size")),
        strides=strides,
        padding=_padding(cls, config.get("padding", "valid"), generation, at(where, "padding")),
        channels_first=_channels_first(config.get("data_format"), at(where, "data_format")),
        dilation_rate=dilation,
        depth_multiplier=integer(config.get("depth_multiplier", 1), at(where, "depth_multiplier")),
        activation=read_activation(config.get("activation"), at(where, "activation"), generation),
        use_bias=truth(config.get("use_bias", True), at(where, "use_bias")),
        policy=read_policy(config.get("dtype"), at(where, "dtype"), generation.major),
        initializers=_initializers(cls, config, where),
        where=where,
        ignored=_ignored(cls, config, where),
    )


def _check_keys(cls: LayerClass, config: Mapping[str, Any], generation: Generation, where: Origin) -> None:
    known = allowed(cls, generation.name)
    for key in config:
        if key not in known:
            elsewhere = sorted({g for entry in KEYS if entry.name == key for g in entry.generations})
            hint = f" (a key of {', '.join(elsewhere)}, not of {cls.name} in {generation.title})" if elsewhere else ""
            raise ConfigError(f"{where}.{key}={show(config[key])}: unknown key{hint}; accepted: {', '.join(known)}")
    for key in ("filters", "kernel_size"):
        if key in known and key not in config:
            raise ConfigError(f"{where}.{key} is missing; expected {known[key].accepted}")


def _check_strided_dilation(
    strides: tuple[int, ...], dilation: tuple[int, ...], generation: Generation, where: Origin
) -> None:
    if max(strides) > 1 and max(dilation) > 1 and not generation.computes_strided_dilation:
        raise ConfigError(
            f"{where}: strides={strides} > 1 with dilation_rate={dilation} > 1 is not supported in {generation.title}; "
            "Keras 3.15 and later compute it: state keras_version='3.15' if the layer is theirs"
        )


def _name(cls: LayerClass, config: Mapping[str, Any], generation: Generation, where: Origin) -> str:
    value = config.get("name")
    if value is None:
        return cls.default_name
    if not isinstance(value, str) or not value or len(value) > 1024:
        fail(at(where, "name"), value, "None or a string of 1 to 1024 characters")
    if "/" in value and generation.major == 3:
        fail(at(where, "name"), value, "a name without '/', which Keras 3 refuses")
    return value


def _padding(cls: LayerClass, value: object, generation: Generation, where: Origin) -> str:
    padding = choice(value, where, ("valid", "same", "causal"), any_case=True)
    if padding == "causal":
        if cls.name != "SeparableConv1D":
            fail(where, value, f"'valid' or 'same'; 'causal' is for SeparableConv1D, not {cls.name}")
        if generation.major == 3:
            fail(where, value, f"'valid' or 'same'; {generation.title} has no 'causal' here, Keras 2 has")
    return padding


def _channels_first(value: object, where: Origin) -> bool:
    """None means Keras's own default; ~/.keras/keras.json is not read, so that a build does not depend on it."""
    return value is not None and choice(value, where, FORMATS, any_case=True) == "channels_first"


def _initializers(cls: LayerClass, config: Mapping[str, Any], where: Origin) -> tuple[tuple[str, Initializer], ...]:
    defaults = {"depthwise_initializer": "glorot_uniform"}
    defaults |= {"pointwise_initializer": "glorot_uniform"} if cls.separable else {}
    defaults["bias_initializer"] = "zeros"
    return tuple((key, read_initializer(config.get(key), at(where, key), text)) for key, text in defaults.items())


def _ignored(cls: LayerClass, config: Mapping[str, Any], where: Origin) -> tuple[tuple[str, Any], ...]:
    """Every key with effect "none", checked by its reader and kept as it reads."""
    found = []
    for key in KEYS:
        if key.effect == "none" and key.name in config:
            found.append((key.name, _reader(key.name, cls)(config[key.name], at(where, key.name))))
    return tuple(found)


def _reader(key: str, cls: LayerClass) -> Callable[[Any, Origin], Any]:
    if key.endswith("_regularizer"):
        return regularizer
    if key.endswith("_constraint"):
        return constraint
    special: Mapping[str, Callable[[Any, Origin], Any]] = {
        "kernel_initializer": lambda value, at_: read_initializer(value, at_, "glorot_uniform").to_config(),
        "trainable": _trainable,
        "rank": lambda value, at_: integer(value, at_, cls.rank, cls.rank),
        "groups": lambda value, at_: integer(value, at_, 1, 1),
        "implementation": lambda value, at_: None if value is None else integer(value, at_, 0, 2),
        "dynamic": _dynamic,
        "autocast": _autocast,
    }
    return special[key]


def _trainable(value: object, where: Origin) -> bool:
    if value is None:
        fail(where, value, "True or False")
    return truth(value, where)


def _dynamic(value: object, where: Origin) -> bool:
    if truth(value, where):
        raise UnsupportedError(f"{where}=True: a layer that must run eagerly is not compiled; accepted: False")
    return False


def _autocast(value: object, where: Origin) -> bool:
    if value is not None and not truth(value, where):
        raise UnsupportedError(f"{where}=False: a layer that keeps its input's dtype is not compiled; accepted: True")
    return True
