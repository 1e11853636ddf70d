"""dtypes and dtype policies: what a layer computes in and what its variables are rounded to."""

from __future__ import annotations

from dataclasses import dataclass

from sepcompile.errors import UnsupportedError
from sepcompile.frontend.serialized import unwrap
from sepcompile.frontend.values import at, fail, show
from sepcompile.ir.stages import Origin

_UNSUPPORTED = frozenset(
    {"float64", "double", "int8", "uint8", "int16", "int32", "int64", "bool", "complex64"}
)
_QUANTIZED = ("int8_from_", "float8_from_", "int4_from_", "int4/", "gptq/", "awq/")
_POLICIES = ("float32", "float16", "mixed_float16", "bfloat16", "mixed_bfloat16")
_ACCEPTED = "float32, float16, mixed_float16, bfloat16 or mixed_bfloat16"


@dataclass(frozen=True)
class Policy:
    """``compute`` is the dtype of input and output, "float32", "float16" or "bfloat16".

    A mixed policy differs in its variables only, which both cast to the narrow type before they compute.
    """

    name: str

    @property
    def compute(self) -> str:
        """The dtype of the layer's input, weights and output at the edge of its computation."""
        return self.name.removeprefix("mixed_")


def read_policy(value: object, where: Origin, major: int | None = None) -> Policy:
    """The policy that ``dtype`` names; None is Keras's default, float32.

    Raises ``UnsupportedError`` for a legal policy that is not compiled and ``ConfigError`` for anything else.
    """
    if value is None:
        return Policy("float32")
    if isinstance(value, dict):
        return _from_dict(value, where, major)
    if not isinstance(value, str):
        fail(where, value, _ACCEPTED)
    if value == "half" and major != 3:
        return Policy("float16")
    if value in _POLICIES:
        return Policy(value)
    if value in _UNSUPPORTED or value.startswith(_QUANTIZED):
        raise UnsupportedError(f"{where}={show(value)} is not compiled; accepted: {_ACCEPTED}")
    return fail(where, value, _ACCEPTED)


def _from_dict(value: dict[str, object], where: Origin, major: int | None) -> Policy:
    wrapped = unwrap(value, where)
    if wrapped.class_name in ("DTypePolicyMap", "QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy", "PolicyV1"):
        raise UnsupportedError(f"{where}: a {wrapped.class_name} is not compiled; accepted: {_ACCEPTED}")
    if wrapped.class_name not in ("DTypePolicy", "FloatDTypePolicy", "Policy"):
        fail(at(where, "class_name"), wrapped.class_name, "'DTypePolicy' (Keras 3) or 'Policy' (Keras 2)")
    for key in wrapped.config:
        # Keras 2's Policy may carry a loss scale, which is training's.
        if key not in ("name", "loss_scale", "source_name"):
            fail(at(where, f"config.{key}"), wrapped.config[key], "no such parameter; a policy has: name")
    name = wrapped.config.get("name")
    if not isinstance(name, str):
        fail(at(where, "config.name"), name, _ACCEPTED)
    return read_policy(name, at(where, "config.name"), major)
