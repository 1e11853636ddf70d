"""One layer's weights out of a weight file of Keras.

The rule: the layer of the config's name; where the file has none of that name, or no names at all, the only layer in it
that could be meant (in Keras 3's trees, which tell classes: the only one of the layer's class). Anything else is an
error that lists what the file has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from sepcompile.errors import ConfigError, WeightError
from sepcompile.frontend.hdf5 import Group
from sepcompile.frontend.model.flatten import MAX_NESTING, snake_case
from sepcompile.frontend.model.graph import ModelLayer
from sepcompile.frontend.model.sources import ARCHIVES, LEGACY, weight_file
from sepcompile.frontend.model.stores import Found, Legacy, Variables, parts_of, text_list
from sepcompile.frontend.values import show
from sepcompile.ir.stages import Origin

SUFFIXES = ARCHIVES + LEGACY
_MOST_LISTED = 8

P = TypeVar("P", str, tuple[str, ...])


def layer_arrays(path: str, class_name: str, name: str | None, where: Origin) -> Found:
    """The arrays of the layer called ``name`` (None: a config without one) in a .h5, .weights.h5 or .keras file.

    Raises ``WeightError``, also where the file cannot be read or more than one layer could be meant.
    """
    try:
        store = weight_file(path)
    except ConfigError as cause:
        raise WeightError(f"{where}: weights={show(path)}: {cause}") from None
    wanted = ModelLayer((name or "",), class_name, {}, "", where)
    found: Found | None = None
    if isinstance(store, Legacy):
        found = _from_groups(store, wanted)
    elif isinstance(store, Variables):
        found = _from_tree(store, wanted)
    assert found is not None  # every file of these suffixes is one or the other
    return found


# ---- legacy groups: by name ----------------------------------------------------------------------------------------


def _from_groups(store: Legacy, wanted: ModelLayer) -> Found:
    """A group per layer of the outermost model; the names of a nested model's weights begin with its layers'."""
    found: dict[tuple[str, ...], None] = {}
    for top in store.root.names():
        group = store.root.group(top)
        for stored in text_list(group, "weight_names") if group is not None else []:
            inner = parts_of(stored)[:-1]
            inner = inner[1:] if inner[:1] == [top] else inner
            found.setdefault((top, *inner), None)
    names = {path: path[-1] for path in found}
    path = _the_one(list(found), names, wanted, "layers with weights")
    return store.arrays(replace(wanted, names=path)) or {}


# ---- Keras 3's trees: by class, and by name where names are stored ---------------------------------------------------


def _from_tree(store: Variables, wanted: ModelLayer) -> Found:
    stem = re.compile(re.escape(snake_case(wanted.class_name)) + r"(_\d+)?")
    groups = {path: group for path, group in _variables(store.root, "", 0) if stem.fullmatch(path.rsplit("/", 1)[-1])}
    names = {path: str(group.attributes().get("name", "")) for path, group in groups.items()}
    path = _the_one(list(groups), names, wanted, f"layers of class {wanted.class_name}")
    return Variables(store.root, named=False).arrays(replace(wanted, stored_at=path)) or []


def _variables(group: Group, path: str, depth: int) -> Iterator[tuple[str, Group]]:
    """Every layer's place in the tree, with its group of variables."""
    if depth > MAX_NESTING:
        raise WeightError(f"{group.raw.label}: models nested deeper than {MAX_NESTING} levels")
    layers = group.group("layers")
    for name in layers.names() if layers is not None else ():
        layer = layers.group(name) if layers is not None else None
        if layer is None:
            continue
        place = f"{path}layers/{name}"
        own = layer.group("vars")
        if own is not None and own.names():
            yield place, own
        yield from _variables(layer, f"{place}/", depth + 1)


# ---- which one -----------------------------------------------------------------------------------------------------


def _the_one(paths: list[P], names: Mapping[P, str], wanted: ModelLayer, what: str) -> P:
    """The path whose name is the layer's, or the only one."""
    called = [path for path in paths if wanted.name and names[path] == wanted.name]
    chosen = called or paths
    if len(chosen) == 1:
        return chosen[0]
    listed = sorted(f"{names[path]} ({_shown(path)})" if names[path] else _shown(path) for path in chosen)
    some = ", ".join(listed[:_MOST_LISTED]) + (", ..." if len(listed) > _MOST_LISTED else "")
    if not chosen:
        raise WeightError(f"{wanted.where}: the weight file has no {what}")
    named = f"none of them is named {show(wanted.name)}" if wanted.name and not called else "which one is not clear"
    raise WeightError(
        f"{wanted.where}: the weight file has {len(chosen)} {what}, and {named}: {some}; "
        "the config's name picks one, where the file keeps names"
    )


def _shown(path: object) -> str:
    return "/".join(path) if isinstance(path, tuple) else str(path)
