"""Writes artifacts: libraries, weights, self-test, manifest, loader, header and README in one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sepcompile import runtime
from sepcompile.codegen.c_api import StaticLibrary
from sepcompile.codegen.c_texts import c_api_texts
from sepcompile.codegen.data import render
from sepcompile.codegen.entry import ENTRY_ABI, symbol_name, weight_order
from sepcompile.codegen.folder import write_folder
from sepcompile.codegen.link import link_library
from sepcompile.codegen.manifest import VariantRecord, manifest_text
from sepcompile.codegen.plan import Compiled, Launch, Plan
from sepcompile.codegen.tensors import TensorFile, write_tensors
from sepcompile.errors import ArtifactError, CompileError
from sepcompile.ir.stages import TensorSpec
from sepcompile.runtime.manifest import MANIFEST, SELFTEST, SELFTEST_TENSORS, WEIGHTS, parse_manifest
from sepcompile.runtime.manifest import read_manifest as _read_manifest
from sepcompile.runtime.results import SelfTest

_C_TYPES = {"float32": "float", "float16": "uint16_t", "bfloat16": "uint16_t", "float64": "double"}
_OWN_FOLDERS = ("build", "include", "runtime", "src")


@dataclass(frozen=True)
class LinkedVariant:
    """One variant, linked. ``symbol`` is the prefix of the library's functions, ``requires`` CPU features by the names
    of ``sepcompile.runtime.cpu``. ``static`` is its library for C programs, the only one (``library`` is empty) where
    there is no operating system."""

    target: str
    family: str
    arch: str
    requires: tuple[str, ...]
    symbol: str
    library: bytes
    plan: Plan
    weights: Mapping[str, np.ndarray]
    schedule: Mapping[str, object]
    schedule_source: str
    images: Mapping[str, bytes] = field(default_factory=dict)
    launches: tuple[Launch, ...] = ()
    precision: str = "float32"
    static: StaticLibrary | None = None


def link_variant(
    compiled: Compiled,
    *,
    name: str,
    family: str,
    arch: str,
    triple: str,
    requires: Sequence[str],
    static: StaticLibrary | None = None,
    shared: bool = True,
) -> LinkedVariant:
    """Links ``compiled`` for the artifact of layer ``name``; images for GPUs stay as they are.

    ``static`` comes with it; ``shared=False`` leaves out the shared library that Python loads.

    Raises ``CompileError``.
    """
    symbol = symbol_name(name)
    return LinkedVariant(
        target=compiled.target,
        family=family,
        arch=arch,
        requires=tuple(requires),
        symbol=symbol,
        library=link_library(compiled, name=symbol, triple=triple) if shared and not compiled.images else b"",
        plan=compiled.plan,
        weights=compiled.weights,
        schedule=compiled.schedule,
        schedule_source=compiled.schedule_source,
        images=dict(compiled.images),
        launches=compiled.launches,
        precision=compiled.precision,
        static=static,
    )


def write_artifact(
    output_dir: str | os.PathLike[str],
    *,
    name: str,
    layer_info: Mapping[str, object],
    ir_text: str,
    input: TensorSpec,
    output: TensorSpec,
    variants: Sequence[LinkedVariant],
    weights_drawn: bool,
    selftest: SelfTest,
    tool_versions: Mapping[str, str],
    residual: TensorSpec | None = None,
) -> Path:
    """Writes the artifact to the folder ``output_dir``, whole or not at all, and returns its path.

    The same arguments give the same bytes. ``variants`` are put in order of preference: more required CPU features
    first, otherwise as given. An artifact that is already there is replaced; another folder or file is not.
    Raises ``ArtifactError`` for the latter, ``CompileError`` where the parts do not fit together.
    """
    symbol = symbol_name(name)
    _check_parts(name, symbol, input, output, variants)
    ordered = sorted(variants, key=lambda variant: -len(variant.requires))
    arrays, keys = _shared_weights(ordered)
    records = [_record(variant, place, keys[variant.target]) for variant, place in _libraries(ordered)]
    weights = write_tensors(arrays)
    files: dict[str, bytes] = {}
    for record, linked in zip(records, ordered, strict=True):
        images = {record.images[arch]: image for arch, image in linked.images.items()}
        files |= images or ({record.library: linked.library} if linked.library else {})
        if record.static is not None:
            files[record.archive] = record.static.archive
    files[WEIGHTS] = weights.data
    files[SELFTEST] = _selftest_file(selftest, input)
    texts = _texts(name, symbol, layer_info, input, output, records, weights, weights_drawn, residual is not None)
    files |= {path: text.encode() for path, text in texts.items()}
    files |= _runtime_files() if any(linked.library or linked.images for linked in ordered) else {}
    manifest = manifest_text(
        name=name, layer=layer_info, ir=ir_text, input=input, output=output, weights_drawn=weights_drawn,
        variants=records, files=files, tools=tool_versions, residual=residual,
    )  # fmt: skip
    return _write(Path(output_dir).resolve(), files, manifest)


def _write(path: Path, files: Mapping[str, bytes], manifest: bytes) -> Path:
    _check_own(manifest, path)
    try:
        write_folder(path, {**files, MANIFEST: manifest}, _may_replace)
    except OSError as error:
        raise ArtifactError(f"output={str(path)!r}: cannot be written: {error.strerror or error}") from error
    return path


def _check_parts(
    name: str, symbol: str, input: TensorSpec, output: TensorSpec, variants: Sequence[LinkedVariant]
) -> None:
    if not variants:
        raise CompileError(f"artifact {name!r}: variants is empty; at least one is needed")
    if any(variant.symbol != symbol for variant in variants):
        raise CompileError(f"artifact {name!r}: its variants must be linked as {symbol!r}")
    for what, spec in (("input", input), ("output", output)):
        if spec.dtype not in _C_TYPES:
            raise CompileError(f"artifact {name!r}: {what} has dtype {spec.dtype}; {', '.join(_C_TYPES)} can be stored")


def _may_replace(path: Path) -> bool:
    """Whether a folder is an artifact, or empty."""
    try:
        _read_manifest(path)
    except ArtifactError:
        return path.is_dir() and not any(path.iterdir())
    return True


def _check_own(manifest: bytes, path: Path) -> None:
    """What the loader would refuse is never written."""
    try:
        parse_manifest(manifest, path)
    except ArtifactError as error:
        raise CompileError(f"the artifact would not load: {error}") from error


def _shared_weights(variants: Sequence[LinkedVariant]) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
    """Distinct arrays by their key, and per target the key of each weight.

    A weight's key is its name, or ``<name>@<target>`` where another variant has it in another layout.
    """
    arrays: dict[str, np.ndarray] = {}
    known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    keys: dict[str, dict[str, str]] = {}
    for variant in variants:
        keys[variant.target] = {}
        for name in sorted(variant.weights):
            array = variant.weights[name]
            content = (array.dtype.str, array.shape, array.tobytes())
            if content not in known:
                known[content] = key = name if name not in arrays else f"{name}@{variant.target}"
                arrays[key] = array
            keys[variant.target][name] = known[content]
    return arrays, keys


def _libraries(variants: Sequence[LinkedVariant]) -> list[tuple[LinkedVariant, str]]:
    """Each variant with the path of its library: a folder per target."""
    placed: list[tuple[LinkedVariant, str]] = []
    taken = set(_OWN_FOLDERS)
    for variant in variants:
        folder = re.sub(r"[^A-Za-z0-9._+-]", "_", variant.target).strip(".")[:80] or "target"
        while folder.lower() in taken:
            folder += "_"
        taken.add(folder.lower())
        name = f"lib{variant.symbol}.{'so' if variant.library else 'a'}"
        if variant.images:
            name = _image_name(variant.symbol, next(iter(variant.images)))
        placed.append((variant, f"{folder}/{name}"))
    return placed


def _image_name(symbol: str, arch: str) -> str:
    """The file of an image: PTX (``compute_75``) is text for the driver, anything else a cubin."""
    return f"{symbol}.{arch}.{'ptx' if arch.startswith('compute_') else 'cubin'}"


def _record(variant: LinkedVariant, library: str, keys: Mapping[str, str]) -> VariantRecord:
    folder = Path(library).parent
    return VariantRecord(
        target=variant.target,
        family=variant.family,
        arch=variant.arch,
        requires=variant.requires,
        library=library,
        symbol=variant.symbol,
        plan=variant.plan,
        schedule=variant.schedule,
        schedule_source=variant.schedule_source,
        weights=variant.weights,
        keys=keys,
        images={arch: f"{folder}/{_image_name(variant.symbol, arch)}" for arch in variant.images},
        launches=variant.launches,
        precision=variant.precision,
        static=variant.static,
        archive=f"{folder}/lib{variant.symbol}.a" if variant.static else "",
    )


def _selftest_file(selftest: SelfTest, input: TensorSpec) -> bytes:
    if selftest.pattern.dtype != np.dtype("float32" if input.dtype == "bfloat16" else input.dtype):
        raise CompileError(f"self-test: pattern is {selftest.pattern.dtype.name}; the layer's input is {input.dtype}")
    return write_tensors({name: getattr(selftest, name) for name in SELFTEST_TENSORS}).data


def _texts(
    name: str,
    symbol: str,
    layer: Mapping[str, object],
    input: TensorSpec,
    output: TensorSpec,
    records: Sequence[VariantRecord],
    weights: TensorFile,
    weights_drawn: bool,
    residual: bool,
) -> dict[str, str]:
    """The files that templates give, by their paths. C programs are for CPUs: without any, there is nothing for them.

    The header and the example are those of the static libraries, or without any those of the shared ones.
    """
    on_cpus = [record for record in records if not record.images]
    loaded = any(not record.library.endswith(".a") for record in records)
    values: dict[str, object] = {
        "name": name,
        "symbol": symbol,
        "macro": symbol.upper(),
        "abi": ENTRY_ABI,
        "layer_class": _layer_class(layer),
        "input": input,
        "output": output,
        "x_type": _C_TYPES[input.dtype],
        "y_type": _C_TYPES[output.dtype],
        "x_size": _elements(input),
        "y_size": _elements(output),
        "variants": [_template_variant(record, weights) for record in on_cpus or records],
        "weight_slots": max(1, *(len(record.weights) for record in records)),
        "weights_drawn": weights_drawn,
        "residual": residual,
        "static": any(record.static for record in records),
        "loaded": loaded,
        "records": records,
    }
    texts = {"README.md": render("artifact.md.j2", **values)}
    if loaded:
        texts |= {"__init__.py": render("init.py.j2", **values), "loader.py": render("loader.py.j2", **values)}
    if values["static"]:
        return texts | c_api_texts(values, records, input, output)
    return texts if not on_cpus else texts | {
        f"include/{symbol}.h": render("header.h.j2", **values),
        "src/example.c": render("example.c.j2", **values),
    }


def _layer_class(layer: Mapping[str, object]) -> str:
    config = layer.get("config")
    return str(config.get("class_name", "convolution")) if isinstance(config, Mapping) else "convolution"


def _template_variant(record: VariantRecord, weights: TensorFile) -> dict[str, object]:
    order = weight_order(tuple(record.weights))
    return {
        "target": record.target,
        "symbol": symbol_name(record.target),
        "arch": record.arch,
        "requires": sorted(record.requires),
        "library": record.library,
        "loaded": not record.library.endswith(".a"),
        "weights": [(name, weights.offsets[record.keys[name]]) for name in order],
    }


def _elements(spec: TensorSpec) -> int:
    count = 1
    for size in spec.shape[1:]:
        count *= size or 0
    return count


def _runtime_files() -> dict[str, bytes]:
    """The modules of ``sepcompile.runtime``, as they are."""
    folder = Path(str(runtime.__file__)).parent
    return {f"runtime/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
