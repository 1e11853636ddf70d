"""What is supported, as data: every key of a layer's config, for which class and which generation, and what it does.

The reader refuses every other key by name; the README's table is printed from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from sepcompile.frontend.classes import CLASSES, LayerClass

GENERATIONS = ("keras2", "keras3", "r")
_EVERY = tuple(CLASSES)
_SEPARABLE = tuple(name for name, cls in CLASSES.items() if cls.separable)
_NOT_KERAS_3 = ("keras2", "r")


@dataclass(frozen=True)
class Key:
    """One config key.

    ``effect``: "computes" (changes the result), "weights" (only used to draw or give weights), "shape" (says the input
    shape), "none" (validated and recorded: no effect at inference).
    """

    name: str
    effect: str
    accepted: str
    default: str
    classes: tuple[str, ...] = _EVERY
    generations: tuple[str, ...] = GENERATIONS


_INITIALIZER = "a Keras initializer in any serialized form, or None"
_REGULARIZER = "a Keras regularizer in any serialized form, or None"
_CONSTRAINT = "a Keras constraint in any serialized form, or None"

KEYS: tuple[Key, ...] = (
    Key("name", "computes", "a string (without '/' in Keras 3), or None", "the class name in snake case"),
    Key("filters", "computes", "an integer >= 1", "required", _SEPARABLE),
    Key("kernel_size", "computes", "an integer >= 1, or one per spatial axis", "required"),
    Key("strides", "computes", "an integer >= 1, or one per spatial axis", "1"),
    Key(
        "padding",
        "computes",
        "'valid' or 'same' in any letter case; 'causal' for SeparableConv1D unless the source is Keras 3",
        "'valid'",
    ),
    Key("data_format", "computes", "'channels_last', 'channels_first' in any letter case, or None", "'channels_last'"),
    Key(
        "dilation_rate",
        "computes",
        "an integer >= 1, or one per spatial axis; above 1 together with strides above 1 only for Keras >= 3.15",
        "1",
    ),
    Key("depth_multiplier", "computes", "an integer >= 1", "1"),
    Key("activation", "computes", "a name, a serialized function or activation layer, or None", "'linear'"),
    Key("use_bias", "computes", "True or False (0, 1 and None as Keras takes them)", "True"),
    Key("dtype", "computes", "float32, (mixed_)float16, (mixed_)bfloat16; a name, a policy or None", "'float32'"),
    Key("depthwise_initializer", "weights", _INITIALIZER, "'glorot_uniform'"),
    Key("pointwise_initializer", "weights", _INITIALIZER, "'glorot_uniform'", _SEPARABLE),
    Key("bias_initializer", "weights", _INITIALIZER, "'zeros'"),
    Key("weights", "weights", "arrays in get_weights() order", "None", generations=_NOT_KERAS_3),
    Key("input_shape", "shape", "the input shape without the batch", "None"),
    Key("batch_input_shape", "shape", "the input shape with the batch", "None", generations=_NOT_KERAS_3),
    Key("batch_size", "shape", "an integer >= 1 or None, beside input_shape", "None", generations=_NOT_KERAS_3),
    Key("trainable", "none", "True or False", "True"),
    Key("depthwise_regularizer", "none", _REGULARIZER, "None"),
    Key("pointwise_regularizer", "none", _REGULARIZER, "None", _SEPARABLE),
    Key("bias_regularizer", "none", _REGULARIZER, "None"),
    Key("activity_regularizer", "none", _REGULARIZER, "None"),
    Key("depthwise_constraint", "none", _CONSTRAINT, "None"),
    Key("pointwise_constraint", "none", _CONSTRAINT, "None", _SEPARABLE),
    Key("bias_constraint", "none", _CONSTRAINT, "None"),
    Key("rank", "none", "the number of spatial axes of the class", "as the class", generations=_NOT_KERAS_3),
    Key("groups", "none", "1", "1", generations=_NOT_KERAS_3),
    Key("kernel_initializer", "none", _INITIALIZER, "None", generations=_NOT_KERAS_3),
    Key("kernel_regularizer", "none", _REGULARIZER, "None", generations=_NOT_KERAS_3),
    Key("kernel_constraint", "none", _CONSTRAINT, "None", generations=_NOT_KERAS_3),
    Key("implementation", "none", "an integer or None", "None", generations=_NOT_KERAS_3),
    Key("dynamic", "none", "False or None", "False", generations=_NOT_KERAS_3),
    Key("autocast", "none", "True or None", "True"),
)

# Beside class_name and config in a serialized layer. inbound_nodes is a model's business and has none here.
ENVELOPE_KEYS = (
    "module",
    "class_name",
    "config",
    "registered_name",
    "build_config",
    "compile_config",
    "name",
    "inbound_nodes",
    "shared_object_id",
)

# Keys whose presence says that the config was not written for Keras 3.
KERAS_2_KEYS = frozenset(key.name for key in KEYS if "keras3" not in key.generations)


def allowed(cls: LayerClass, generation: str) -> dict[str, Key]:
    """The keys that a config of ``cls`` may have; every generation's for "unknown"."""
    return {
        key.name: key
        for key in KEYS
        if cls.name in key.classes and (generation not in GENERATIONS or generation in key.generations)
    }


def table(class_name: str) -> list[tuple[str, str, str, str]]:
    """Rows (key, accepted, default, generations) for the README, in the order of ``KEYS``."""
    titles = {"keras2": "Keras 2", "keras3": "Keras 3", "r": "R"}
    return [
        (key.name, key.accepted, key.default, ", ".join(titles[name] for name in key.generations))
        for key in KEYS
        if class_name in key.classes
    ]
