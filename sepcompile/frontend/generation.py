"""Which Keras wrote a config, and what follows from it.

Evidence, strongest first: what the caller states (``keras_version``), the library a live layer comes from, keys that
only one generation writes or accepts, modules, the form of ``dtype``. A bare dtype name is weak evidence for Keras 2:
its files have it, but Keras 3 accepts it too, so it yields to anything stronger.
A stated version that contradicts strong evidence is a ``ConfigError``: one of the two is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sepcompile.errors import ConfigError
from sepcompile.frontend.keys import KERAS_2_KEYS
from sepcompile.frontend.rconfig import is_boxed
from sepcompile.frontend.values import show

# The first Keras whose layers compute strides > 1 together with dilation_rate > 1.
STRIDED_DILATION = (3, 15)
_VERSION = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.\d{1,4})?(?:[.\-+]?[a-z0-9.\-+]{0,24})?", re.ASCII)


@dataclass(frozen=True)
class Generation:
    """``name`` is "keras2", "keras3", "r" or "unknown"; ``version`` is (major, minor) as far as it is known."""

    name: str
    version: tuple[int, int | None] | None = None
    text: str | None = None

    @property
    def major(self) -> int | None:
        """2, 3, or None where the source does not say (R's layers run on either)."""
        if self.version is not None:
            return self.version[0]
        return {"keras2": 2, "keras3": 3}.get(self.name)

    @property
    def computes_strided_dilation(self) -> bool:
        """Whether this Keras computes strides with dilation instead of refusing it."""
        if self.version is None or self.version[1] is None:
            return False
        return (self.version[0], self.version[1]) >= STRIDED_DILATION

    @property
    def title(self) -> str:
        """As it reads in a message."""
        names = {"keras2": "Keras 2", "keras3": "Keras 3", "r": "R keras", "unknown": "a config of unknown origin"}
        return f"{names[self.name]} {self.text}" if self.text else names[self.name]


def parse_version(value: object, label: str) -> tuple[int, int | None]:
    """(major, minor) of a version such as "2", "3.15" or "3.15.1"; Keras 2 and 3 exist."""
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in ("2", "3"):
        raise ConfigError(f"{label}: keras_version={show(value)}: expected a version of Keras 2 or 3 such as '3.15'")
    return int(match[1]), None if match[2] is None else int(match[2])


def detect(
    config: Mapping[str, object],
    *,
    stated: object,
    found: str | None,
    hint: str | None,
    label: str,
) -> Generation:
    """The generation of ``config``.

    ``stated`` is the caller's ``keras_version``, ``found`` the version of the library that a live layer or a file
    names, and ``hint`` what the class name or the module says ("keras2" or "r").
    """
    strong, weak = _evidence(config)
    if hint is not None:
        strong[hint] = "its class name or module"
    if "r" in strong:
        # R's wrappers take Keras 2's arguments whatever Keras is below.
        strong.pop("keras2", None)
    if "keras2" in strong and "keras3" in strong:
        raise ConfigError(f"{label}: {strong['keras2']} is Keras 2's and {strong['keras3']} is Keras 3's")
    known = stated if stated is not None else found
    if stated is not None and found is not None:
        _check_agreement(stated, found, label)
        known = found
    name = _named(strong, weak)
    if known is None:
        return Generation(name)
    version = parse_version(known, label)
    _check_evidence(version[0], strong, known, label)
    name = "r" if "r" in strong else f"keras{version[0]}"
    return Generation(name, version, str(known))


def _named(strong: Mapping[str, str], weak: Mapping[str, str]) -> str:
    for name in ("r", "keras3", "keras2"):
        if name in strong:
            return name
    return next(iter(weak), "unknown")


def _check_agreement(stated: object, found: str, label: str) -> None:
    a, b = parse_version(stated, label), parse_version(found, label)
    if a[0] != b[0] or (a[1] is not None and b[1] is not None and a[1] != b[1]):
        raise ConfigError(f"{label}: keras_version={show(stated)}, but the layer is Keras {found}'s")


def _check_evidence(major: int, strong: Mapping[str, str], known: object, label: str) -> None:
    other = {2: "keras3", 3: "keras2"}[major]
    if other in strong:
        raise ConfigError(f"{label}: keras_version={show(known)}, but {strong[other]} is Keras {other[-1]}'s")


def _evidence(config: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """(strong, weak): generation -> what points to it."""
    strong: dict[str, str] = {}
    weak: dict[str, str] = {}
    only_2 = sorted(KERAS_2_KEYS & set(config))
    if only_2:
        strong["keras2"] = f"the key {only_2[0]!r}"
    dtype = config.get("dtype")
    if isinstance(dtype, dict):
        if dtype.get("module") == "keras.mixed_precision" or dtype.get("class_name") == "Policy":
            strong["keras2"] = "the dtype policy of module keras.mixed_precision"
        elif dtype.get("class_name") in ("DTypePolicy", "DTypePolicyMap"):
            strong["keras3"] = f"the {dtype['class_name']} of dtype"
    elif isinstance(dtype, str):
        weak["keras2"] = "a bare dtype name"
    if is_boxed(config):
        strong["r"] = "NULL written as {} or a scalar as a list of length 1"
    return strong, weak
