"""Where a model's weights are: one interface over Keras 3's variable trees, legacy .h5 groups, named arrays, live
layers and nothing at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepcompile.errors import WeightError
from sepcompile.frontend.hdf5 import Dataset, Group
from sepcompile.frontend.model.graph import ModelLayer
from sepcompile.frontend.values import show

Found = Mapping[str, NDArray[Any]] | Sequence[NDArray[Any]]
_SUFFIX = re.compile(r":\d+$")
# Layer names or weight names of one group; legacy files split longer lists into attributes of 64 KB.
_MAX_CHUNKS = 1000


class Store(Protocol):
    """Arrays of a layer: by Keras's names, or in ``get_weights()`` order; None where all weights are to be drawn."""

    def arrays(self, layer: ModelLayer) -> Found | None:
        """Raises ``WeightError`` for a layer whose weights are not there or not readable."""
        ...


@dataclass(frozen=True)
class Drawn:
    """No weights: they are drawn from the initializers."""

    def arrays(self, layer: ModelLayer) -> Found | None:
        """None."""
        return None


@dataclass(frozen=True)
class Variables:
    """Keras 3's tree: ``layers/<class in snake case>[_n]/vars/<i>``.

    ``named``: each ``vars`` group may carry the layer's name, which must then be the config's. Weights saved apart may
    come from a model whose layers are called otherwise, so their names are not compared.
    """

    root: Group
    named: bool

    def arrays(self, layer: ModelLayer) -> Found | None:
        """The arrays by number."""
        group = self.root.group(f"{layer.stored_at}/vars")
        if group is None:
            raise WeightError(f"{layer.where}: {self.root.raw.label} has no group {show(layer.stored_at)} with weights")
        name = group.attributes().get("name")
        if self.named and isinstance(name, str) and name != layer.name:
            raise WeightError(f"{layer.where}: {show(layer.stored_at)} holds the weights of {show(name)}")
        numbers = sorted(group.names(), key=lambda text: (len(text), text))
        if numbers != [str(number) for number in range(len(numbers))]:
            raise WeightError(f"{layer.where}: {show(layer.stored_at)} holds {show(numbers)}; expected 0, 1, ...")
        return [_read(group, number, layer) for number in numbers]


@dataclass(frozen=True)
class Legacy:
    """Legacy .h5 of both generations: a group per top-level layer, with ``weight_names``."""

    root: Group

    def arrays(self, layer: ModelLayer) -> Found | None:
        """The arrays by variable name."""
        top = layer.names[0]
        group = self.root.group(top)
        if group is None:
            raise WeightError(f"{layer.where}: {self.root.raw.label} has no group {show(top)} with weights")
        names = text_list(group, "weight_names")
        chosen = choose(names, layer, nested=len(layer.names) > 1)
        return {variable: _read(group, name, layer) for variable, name in chosen.items()}


@dataclass(frozen=True)
class Named:
    """A .npz or .safetensors file: keys such as ``block/conv_dw_1/kernel``, ``conv_dw_1.kernel:0``."""

    by_key: Mapping[str, NDArray[Any]]
    label: str

    def arrays(self, layer: ModelLayer) -> Found | None:
        """The arrays by variable name."""
        keys = {_slashed(key): key for key in self.by_key}
        chosen = choose(list(keys), layer, nested=True)
        if not chosen:
            raise WeightError(f"{layer.where}: {self.label} has no arrays named {show(layer.path + '/...')}")
        return {variable: self.by_key[keys[name]] for variable, name in chosen.items()}


@dataclass(frozen=True)
class Live:
    """The layers of a live model by path, with their ``get_weights()``."""

    layers: Mapping[str, Any] = field(repr=False)

    def arrays(self, layer: ModelLayer) -> Found | None:
        """The arrays in Keras's order."""
        found = self.layers.get(layer.path)
        if found is None:
            raise WeightError(f"{layer.where}: the live model has no such layer")
        try:
            return [np.asarray(array) for array in found.get_weights()]
        except Exception as cause:
            raise WeightError(f"{layer.where}: get_weights() failed: {show(str(cause))}") from None


def text_list(group: Group, name: str) -> list[str]:
    """A list of names in an attribute, or in several called name0, name1, ... where it is long."""
    attributes = group.attributes()
    if name in attributes:
        return _texts(group, name, attributes[name])
    found: list[str] = []
    for number in range(_MAX_CHUNKS):
        if f"{name}{number}" not in attributes:
            break
        found += _texts(group, name, attributes[f"{name}{number}"])
    return found


def _texts(group: Group, name: str, value: object) -> list[str]:
    if isinstance(value, np.ndarray) and value.size == 0:
        return []  # an empty list is stored as no numbers
    if not isinstance(value, list):
        raise WeightError(f"{group.raw.label}: attribute {show(name)} of {show(group.path)} is not a list of names")
    return [str(item) for item in value]


def choose(names: Sequence[str], layer: ModelLayer, nested: bool) -> dict[str, str]:
    """Variable name -> stored name, for the names that are this layer's.

    A layer of the outermost model owns its whole group. One of a nested model is told by the names before the
    variable's: by the whole path of models if that is there, else by as much as makes it the only one.
    """
    split = {name: parts_of(_SUFFIX.sub("", name)) for name in names}
    own, path = parts_of(layer.name), parts_of(layer.path)
    exact = {parts[-1]: name for name, parts in split.items() if parts[:-1] == path}
    if exact and nested:
        return exact
    for ending in (path, own) if nested else ([], own):
        found = _ending(split, ending)
        if found:
            return found
    return {}


def _ending(split: Mapping[str, list[str]], ending: list[str]) -> dict[str, str]:
    """The names whose parts before the last end so, unless two of them are of one variable."""
    found: dict[str, str] = {}
    for name, parts in split.items():
        if len(parts) > len(ending) and parts[len(parts) - 1 - len(ending) : -1] == ending:
            if parts[-1] in found:
                return {}
            found[parts[-1]] = name
    return found


def parts_of(name: str) -> list[str]:
    """The names that slashes part."""
    return [part for part in name.split("/") if part]


def _slashed(key: str) -> str:
    """``conv.kernel`` as ``conv/kernel``."""
    text = _SUFFIX.sub("", key)
    return text if "/" in text else "/".join(text.rsplit(".", 1))


def _read(group: Group, path: str, layer: ModelLayer) -> NDArray[Any]:
    dataset = group.dataset(path)
    if not isinstance(dataset, Dataset):
        raise WeightError(f"{layer.where}: {group.raw.label} has no dataset {show(f'{group.path}/{path}')}")
    array = dataset.array()
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        _check_bfloat16(dataset, layer)
        # bfloat16 is the upper half of a float32.
        return (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array


def _check_bfloat16(dataset: Dataset, layer: ModelLayer) -> None:
    named = dataset.attributes().get("dtype")
    if named != "bfloat16":
        raise WeightError(f"{layer.where}: weight {show(dataset.path)} of opaque type with dtype={show(named)}")
