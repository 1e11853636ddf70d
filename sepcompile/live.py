"""A live Keras model with its separable blocks replaced by compiled ones, to try before shipping anything."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sepcompile.errors import UnsupportedError

if TYPE_CHECKING:
    from sepcompile.api import TargetName
    from sepcompile.frontend.model import Model, Unit
    from sepcompile.runtime.layer import Layer


def optimize(
    model: Any,
    target: TargetName = "native",
    *,
    layers: str | Sequence[str] | None = None,
    threads: int | None = None,
    output: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | bool = True,
) -> Any:
    """A Keras model that computes what ``model`` does at inference, its separable blocks compiled.

    The result is a ``keras.Model`` of the same library as ``model``: call it, or use ``predict``. What is not compiled
    stays Keras's and shares the layers of ``model``; compiled blocks keep the weights of this moment and have no
    gradient. No block reaches across a nested model's edge, and layers that are called more than once are left to
    Keras.

    Args:
        model: a built Sequential or Functional model of Keras 3.
        layers: patterns that pick some layers, as for ``sepcompile.compile``.
        threads: threads that each block may use; None for as many as this process has CPUs.
        output: where the artifacts are kept; a temporary folder if None.

    Raises ``UnsupportedError`` where no block can be replaced, and as ``sepcompile.compile`` does.
    """
    from sepcompile import api, models
    from sepcompile.frontend.model import read_model

    keras = _library(model)
    found = read_model(model, within_models=True)
    units = [unit for unit in found.select(models.patterns(layers)) if _replaceable(found, unit)]
    if not units:
        why = "no block of it can be replaced; sepcompile.inspect(model) says which there are"
        raise UnsupportedError(f"{found.graph.label}: {why}")
    with tempfile.TemporaryDirectory(prefix="sepcompile-") as temporary:
        folder = api.output_folder(output, Path(temporary))
        names = [unit.name for unit in units]
        built = models.compile_model(model, target=target, output=folder, layers=names, cache=cache, within_models=True)
        # Loading maps the library and reads the weights, so the folder may go.
        loaded = {
            part.name: _Part(part.name, part.load(threads=threads), api.manifest(part.path).output.dtype.name)
            for part in built.parts
        }
    return _Rewriter(keras, found, {unit.name: unit for unit in units}, loaded).model(model, ())


def _library(model: Any) -> Any:
    """The Keras that the model is of: already imported, since the model is alive."""
    roots = [str(base.__module__).partition(".")[0] for base in type(model).__mro__]
    keras = sys.modules.get("keras") if "keras" in roots else None
    if keras is None or not str(getattr(keras, "__version__", "")).startswith("3."):
        raise UnsupportedError(f"optimize({type(model).__name__}): expected a live model of Keras 3")
    return keras


def _replaceable(model: Model, unit: Unit) -> bool:
    """Whether its layers are called once each."""
    calls = [node.layer.path for node in model.graph.nodes]
    return all(calls.count(model.graph.nodes[number].layer.path) == 1 for number in unit.block.calls)


@dataclass(frozen=True)
class _Part:
    """A block's artifact, loaded. ``residual`` is the place of its second input among those of its Add."""

    name: str
    layer: Layer
    dtype: str
    residual: int | None = None


class _Rewriter:
    """Clones a model around its own layers; where a block ends, its compiled form is called instead."""

    def __init__(self, keras: Any, model: Model, units: Mapping[str, Unit], loaded: Mapping[str, _Part]) -> None:
        self.keras = keras
        self.compiled = _layer_class(keras)
        self.last: dict[str, _Part] = {}
        self.skipped: set[str] = set()
        for name, part in loaded.items():
            block = units[name].block
            paths = {number: model.graph.nodes[number].layer.path for number in block.calls}
            at = _computes(model, units[name])
            if block.residual is not None:
                part = replace(part, residual=model.graph.nodes[at].inputs.index(block.residual))
            self.last[paths.pop(at)] = part
            self.skipped |= set(paths.values())

    def model(self, model: Any, names: tuple[str, ...]) -> Any:
        """The model with its blocks replaced; ``names`` are those of the models around its layers."""
        if isinstance(model, self.keras.Sequential):
            return self._sequential(model, names)
        return self._functional(model, names)

    def _sequential(self, model: Any, names: tuple[str, ...]) -> Any:
        (tensor,) = model.inputs
        given = value = self.keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for layer in model.layers:
            value = self._call(layer, names)(value)
        return self.keras.Model(given, value, name=model.name)

    def _functional(self, model: Any, names: tuple[str, ...]) -> Any:
        """Keras's own clone calls each layer once per call in the model, through a function of ours."""

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return self._call(layer, names)(*args, **kwargs)

        return self.keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=call, recursive=False
        )

    def _call(self, layer: Any, names: tuple[str, ...]) -> Callable[..., Any]:
        path = "/".join((*names, layer.name))
        if path in self.skipped:
            return _first
        if path in self.last:
            part = self.last[path]
            compiled = self.compiled(part)  # masks and training mean nothing to it
            if part.residual is None:
                return lambda value, *_, **__: compiled(value)
            order = (1 - part.residual, part.residual)
            return lambda values, *_, **__: compiled([values[index] for index in order])
        inside = f"{path}/"
        if any(other.startswith(inside) for other in self.last):
            nested = self.model(layer, (*names, layer.name))
            return lambda *args, **_: nested(*args)
        found: Callable[..., Any] = layer
        return found


def _computes(model: Model, unit: Unit) -> int:
    """The call that the compiled block stands for: the one that has all its inputs at hand."""
    numbers = unit.block.calls
    return next((number for number in numbers if len(model.graph.nodes[number].inputs) > 1), numbers[-1])


def _first(value: Any, *_: Any, **__: Any) -> Any:
    """Another layer of a block passes its input on: one of them computes everything."""
    return value


def _layer_class(keras: Any) -> Any:
    """A Keras layer around a compiled block, for the backend that Keras runs on."""
    backend = str(keras.backend.backend())
    if backend not in _RUNNERS:
        raise UnsupportedError(f"optimize: backend {backend!r}; accepted: {', '.join(_RUNNERS)}")
    run = _RUNNERS[backend]

    class CompiledBlock(keras.layers.Layer):  # type: ignore[misc]
        """Runs a compiled block; it has no weights of its own and no gradient."""

        def __init__(self, part: _Part) -> None:
            super().__init__(name=f"{part.name}_compiled", trainable=False, dtype=part.layer.input_dtype.name)
            self.part = part

        def call(self, inputs: Any) -> Any:
            return run(self.part, *(inputs if isinstance(inputs, list | tuple) else [inputs]))

        def get_config(self) -> Any:
            raise UnsupportedError(f"{self.name} is compiled already and has no config; expected the model it is of")

        def compute_output_spec(self, inputs: Any) -> Any:
            batch = (inputs[0] if isinstance(inputs, list | tuple) else inputs).shape[0]
            shape = (batch, *self.part.layer.output_shape[1:])
            return keras.KerasTensor(shape, dtype=self.part.dtype)

    return CompiledBlock


def _numpy(part: _Part, *inputs: Any) -> Any:
    call: Callable[..., Any] = part.layer
    return call(*map(np.ascontiguousarray, inputs))


def _torch(part: _Part, *inputs: Any) -> Any:
    torch = sys.modules["torch"]
    return torch.from_numpy(_numpy(part, *(x.detach().cpu().numpy() for x in inputs))).to(inputs[0].device)


def _jax(part: _Part, *inputs: Any) -> Any:
    jax = sys.modules["jax"]
    if not any(isinstance(x, jax.core.Tracer) for x in inputs):
        return jax.numpy.asarray(_numpy(part, *inputs))
    shape = jax.ShapeDtypeStruct((inputs[0].shape[0], *part.layer.output_shape[1:]), part.dtype)
    return jax.pure_callback(lambda *values: _numpy(part, *values), shape, *inputs)


def _tensorflow(part: _Part, *inputs: Any) -> Any:
    tensorflow = sys.modules["tensorflow"]
    y = tensorflow.numpy_function(lambda *values: _numpy(part, *values), inputs, part.dtype, stateful=False)
    y.set_shape((inputs[0].shape[0], *part.layer.output_shape[1:]))
    return y


_RUNNERS: Mapping[str, Callable[..., Any]] = {
    "jax": _jax,
    "tensorflow": _tensorflow,
    "torch": _torch,
    "numpy": _numpy,
}
