"""Hypothesis strategies over the space of layers.

``legal_layers`` yields (class_name, config, input_shape) that Keras 3.15 accepts and computes, ``illegal_layers`` the
same with one thing wrong. Pass ``keras_version="3.15"`` where strides and dilation meet.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Layer = tuple[str, dict[str, Any], tuple[int | None, ...]]

CLASS_NAMES = ("SeparableConv1D", "SeparableConv2D", "DepthwiseConv1D", "DepthwiseConv2D")
FUNCTIONS = (
    "linear", "relu", "leaky_relu", "relu6", "softmax", "celu", "elu", "selu", "softplus", "softsign",
    "squareplus", "soft_shrink", "sparse_plus", "silu", "swish", "gelu", "glu", "tanh", "tanh_shrink",
    "sigmoid", "sparse_sigmoid", "exponential", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "hard_shrink", "mish", "log_softmax", "log_sigmoid", "sparsemax",
)
FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}


def layer_object(name: str, **config: Any) -> dict[str, Any]:
    """An activation layer as Keras 3 serializes it."""
    inner = {**config, "dtype": FLOAT32}
    return {"module": "keras.layers", "class_name": name, "config": inner, "registered_name": None}


def activation_objects(rank: int) -> list[Any]:
    """Activations serialized as layers and functions."""
    return [
        layer_object("LeakyReLU", negative_slope=0.1),
        layer_object("LeakyReLU"),
        layer_object("ReLU", max_value=1.5, negative_slope=0.2, threshold=0.25),
        layer_object("ReLU", max_value=6.0),
        layer_object("ReLU", threshold=0.5),
        layer_object("ELU", alpha=0.7),
        layer_object("Softmax", axis=1),
        layer_object("Softmax", axis=-1),
        layer_object("Softmax", axis=rank),
        layer_object("PReLU", shared_axes=[1]),
        layer_object("PReLU", shared_axes=list(range(1, rank + 1))),
        layer_object("PReLU"),
        layer_object("Activation", activation="mish"),
        {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"},
    ]


def _initializer() -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            "glorot_uniform",
            "HeNormal",
            "zeros",
            None,
            {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.5, "seed": 3}},
            {
                "module": "keras.initializers",
                "class_name": "VarianceScaling",
                "config": {"scale": 2.0, "mode": "fan_out", "distribution": "uniform", "seed": None},
                "registered_name": None,
            },
        ]
    )


def _regularizer() -> st.SearchStrategy[Any]:
    l1 = {"module": "keras.regularizers", "class_name": "L1", "config": {"l1": 0.5}, "registered_name": None}
    return st.sampled_from([None, "l2", "L1", l1])


def _constraint() -> st.SearchStrategy[Any]:
    norm = {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}}
    return st.sampled_from([None, "non_neg", "UnitNorm", norm])


def _sizes(draw: st.DrawFn, rank: int, high: int) -> Any:
    one = st.integers(1, high)
    return draw(st.one_of(one, st.lists(one, min_size=rank, max_size=rank)))


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


@st.composite
def legal_layers(draw: st.DrawFn, max_extra: int = 7, dtypes: tuple[str, ...] = ("float32", "float16")) -> Layer:
    """Any legal layer of small size: every argument, in the forms that Keras 3 reads."""
    name = draw(st.sampled_from(CLASS_NAMES))
    rank = int(name[-2])
    config: dict[str, Any] = {"kernel_size": _sizes(draw, rank, 4)}
    for key, high in (("strides", 3), ("dilation_rate", 3)):
        if draw(st.booleans()):
            config[key] = _sizes(draw, rank, high)
    config["padding"] = draw(st.sampled_from(["valid", "same", "Same", "VALID"]))
    config["data_format"] = draw(st.sampled_from(["channels_last", "channels_first", "Channels_First", None]))
    config["use_bias"] = draw(st.booleans())
    if draw(st.booleans()):
        config["depth_multiplier"] = draw(st.integers(1, 3))
    if name.startswith("Separable"):
        config["filters"] = draw(st.integers(1, 6))
    shape = _input_shape(draw, rank, config, max_extra)
    config["activation"] = _activation(draw, rank, config, shape)
    _extras(draw, name, config, dtypes)
    return name, config, shape


def _input_shape(draw: st.DrawFn, rank: int, config: dict[str, Any], extra: int) -> tuple[int | None, ...]:
    kernel, dilation = _tuple(config["kernel_size"], rank), _tuple(config.get("dilation_rate", 1), rank)
    valid = config["padding"].lower() == "valid"
    spans = [(k - 1) * d + 1 if valid else 1 for k, d in zip(kernel, dilation, strict=True)]
    spatial = [draw(st.integers(span, span + extra)) for span in spans]
    channels, batch = draw(st.integers(1, 5)), draw(st.sampled_from([None, 1, 2]))
    first = (config["data_format"] or "").lower() == "channels_first"
    return (batch, channels, *spatial) if first else (batch, *spatial, channels)


def _activation(draw: st.DrawFn, rank: int, config: dict[str, Any], shape: tuple[int | None, ...]) -> Any:
    value = draw(st.one_of(st.sampled_from(FUNCTIONS), st.sampled_from(activation_objects(rank)), st.none()))
    if value == "glu" and output_sizes(rank, config, shape)[-1] % 2:
        return "tanh"
    return value


def output_sizes(rank: int, config: dict[str, Any], shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """The layer's output before the activation, in its own data_format, without the batch."""
    sizes = [size or 1 for size in shape[1:]]
    first = (config.get("data_format") or "").lower() == "channels_first"
    channels, spatial = (sizes[0], sizes[1:]) if first else (sizes[-1], sizes[:-1])
    keys = ("kernel_size", "strides", "dilation_rate")
    kernel, strides, dilation = (_tuple(config.get(key, 1), rank) for key in keys)
    valid = config["padding"].lower() == "valid"
    out = [
        (n - (k - 1) * d - 1) // s + 1 if valid else -(-n // s)
        for n, k, s, d in zip(spatial, kernel, strides, dilation, strict=True)
    ]
    features = config.get("filters") or channels * config.get("depth_multiplier", 1)
    return (features, *out) if first else (*out, features)


def _extras(draw: st.DrawFn, name: str, config: dict[str, Any], dtypes: tuple[str, ...]) -> None:
    """Fields that change nothing in the result, and the dtype."""
    parts = ("depthwise", "pointwise") if name.startswith("Separable") else ("depthwise",)
    for part in (*parts, "bias"):
        if draw(st.integers(0, 4)) == 0:
            config[f"{part}_initializer"] = draw(_initializer())
        if draw(st.integers(0, 4)) == 0:
            config[f"{part}_regularizer"] = draw(_regularizer())
        if draw(st.integers(0, 4)) == 0:
            config[f"{part}_constraint"] = draw(_constraint())
    if draw(st.integers(0, 4)) == 0:
        config["activity_regularizer"] = draw(_regularizer())
    if draw(st.booleans()):
        config["name"] = draw(st.sampled_from(["sep_1", "a b", "conv.x", "é"]))
        config["trainable"] = draw(st.booleans())
    policy = draw(st.sampled_from([*dtypes, "float32", "float32"]))
    if policy == "float16" and draw(st.booleans()):
        policy = "mixed_float16"
    config["dtype"] = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": policy}}


# ---- illegal layers ------------------------------------------------------------------------------------------------

_BAD_SIZES = [
    *(0, -1, None, 3.0, "3", True, 2**40, {"a": 1}),
    *([], [0], [2, 0], [1, 2, 3], [1.5, 2], [None, None], [[1], [1]]),
]
_BAD: dict[str, list[Any]] = {
    "kernel_size": [*_BAD_SIZES, 10**9],
    "strides": _BAD_SIZES,
    "dilation_rate": _BAD_SIZES,
    "depth_multiplier": [0, -3, None, 1.0, "1", [1, 2], True, 2**31],
    # A list of length 1 and {} are how R's jsonlite writes a scalar and NULL: legal.
    "padding": ["full", "causal_", None, 3, ["same", "same"], ""],
    "data_format": ["NHWC", "NCW", 3, ["channels_last", "channels_first"], ""],
    "activation": [
        "nope",
        "threshold",
        "LeakyReLU",
        "Relu",
        3,
        ["relu"],
        {},
        {"class_name": "Dense", "config": {"units": 3}},
        {"class_name": "LeakyReLU", "config": {"negative_slope": -1.0}},
        {"class_name": "LeakyReLU", "config": {"slope": 1.0}},
        {"class_name": "ReLU", "config": {"max_value": float("nan")}},
        {"class_name": "ReLU", "config": {"threshold": None}},
        {"class_name": "Softmax", "config": {"axis": 0}},
        {"class_name": "Softmax", "config": {"axis": 7}},
        {"class_name": "__lambda__", "config": {"value": "4wE="}},
        {"module": "os", "class_name": "system", "config": {"command": "true"}},
        {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "eval"},
    ],
    "use_bias": ["no", 2, [True, True], {"a": 1}],
    "dtype": ["float8", "float64", "int8", "half?", 32, {"class_name": "DTypePolicy", "config": {}}, ["float32"]],
    "depthwise_initializer": ["glorot", 3, {"class_name": "HeNormal", "config": {"sd": 1}}, {"class_name": "os"}],
    "bias_initializer": ["Zeroes", {"config": {}}, [], {"class_name": "Constant", "config": {"value": "x"}}],
    "depthwise_regularizer": ["l3", 0.1, {"class_name": "L2", "config": {"l1": 1.0}}],
    "bias_constraint": ["positive", 1, {"class_name": "MaxNorm", "config": {"max": 1}}],
    "activity_regularizer": ["entropy", [1]],
    "trainable": [None, "yes", 3],
    "name": ["a/b", 3, "", ["x", "y"]],
    "foo": [1, None],
    "groups": [1, 2],
    "rank": [5],
}
_BAD_SHAPES: list[Any] = [
    *((), (None,), (1, 2), (None, 0, 0, 0), "shape", 7, (None, -1, -2), (1, 2, 3, 4, 5), (2.5, 1, 1)),
]


@st.composite
def illegal_layers(draw: st.DrawFn) -> tuple[str, Any, Any, str]:
    """(class_name, config, input_shape, what is wrong): a legal layer with one thing broken."""
    name, config, shape = draw(legal_layers())
    what = draw(st.sampled_from([*_BAD, "filters", "shape", "class", "missing", "dynamic"]))
    if what in _BAD:
        value = draw(st.sampled_from(_BAD[what]))
        return name, {**config, what: value}, shape, f"{what}={value!r}"
    if what == "filters":
        config["filters"] = draw(st.sampled_from([0, -1, None, 2.5, "8", [8, 8], True, 2**31]))
        return "SeparableConv" + name[-2:], config, shape, "filters"
    if what == "shape":
        return name, config, draw(st.sampled_from(_BAD_SHAPES)), "input_shape"
    if what == "class":
        other = draw(st.sampled_from(["Conv2D", "Nope", "", "os.system", "Separable Conv2D"]))
        return other, config, shape, "class_name"
    if what == "missing":
        del config["kernel_size"]
        return name, config, shape, "kernel_size is missing"
    position = draw(st.integers(1, len(shape) - 1))
    return name, config, (*shape[:position], None, *shape[position + 1 :]), "a dynamic size"
