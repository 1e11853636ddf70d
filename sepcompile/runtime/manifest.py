"""The manifest of an artifact (format version 1): read with nothing trusted, into typed records."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cuda_manifest import ARCH, FAMILY, SCALARS, CudaEntry, read_cuda
from .elf import ARCHES
from .errors import ArtifactError
from .fields import Fields, parse_json, whole
from .files import PATH_PATTERN, FileEntry, read_bounded
from .inputs import TensorSpec
from .signature import check_signature
from .tensors import DTYPES

FORMAT = "sepcompile-artifact"
FORMAT_VERSION = 1
MANIFEST, WEIGHTS, SELFTEST = "manifest.json", "weights.safetensors", "selftest.safetensors"
_STATIC_SIZES = ("code", "constant", "data", "flash", "input", "output", "arena", "ram")
BARE_FAMILY, BARE_ARCHES = "cortex-m", ("armv7e-m", "armv8-m.main")
RESIDUAL = "r"
"""The operand of a kernel that is the second input."""
SELFTEST_TENSORS = ("pattern", "positions", "expected", "tolerance")
MOST_BYTES = 16 << 20  # of the manifest
_MOST_SIZE = 2**31 - 1  # of one dimension
_MOST_ELEMENTS = 2**44
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]{0,199}"
_WORD = r"[A-Za-z0-9._+-]{1,100}"
_SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class WeightEntry:
    """One weight of a variant: its name in the plan, its key in weights.safetensors, and what must be found there."""

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StepEntry:
    """One kernel call per image (see ``sepcompile.codegen.plan.Step``)."""

    symbol: str
    operands: tuple[str, ...]
    tasks: int
    scratch_bytes: int
    macs_per_task: int


@dataclass(frozen=True)
class PlanEntry:
    """The steps of one image; sizes in bytes per image."""

    steps: tuple[StepEntry, ...]
    intermediates: tuple[tuple[str, int], ...]
    x_bytes: int
    y_bytes: int


@dataclass(frozen=True)
class StaticEntry:
    """A variant's library for C programs, and the bytes that it takes of a device.

    ``flash_bytes`` is code, constants and initialised data; ``ram_bytes`` is the input and output of one run (of one
    image where the batch is dynamic), the arena of one thread and data, without the stack.
    """

    library: str
    code_bytes: int
    constant_bytes: int
    data_bytes: int
    flash_bytes: int
    input_bytes: int
    output_bytes: int
    arena_bytes: int
    ram_bytes: int
    stack_bytes: int | None


@dataclass(frozen=True)
class VariantEntry:
    """One build of the layer: for what, where its library is, and how it was scheduled."""

    target: str
    family: str
    arch: str
    requires: tuple[str, ...]
    library: str
    symbol: str
    abi: int
    plan: PlanEntry
    schedule: dict[str, Any]
    schedule_source: str
    weights: tuple[WeightEntry, ...]
    cuda: CudaEntry | None = None
    c_api: StaticEntry | None = None

    @property
    def bare(self) -> bool:
        """Whether it is for machines without an operating system: its library is for C programs to link."""
        return self.family == BARE_FAMILY

    @property
    def images(self) -> tuple[str, ...]:
        """The files that hold its native code."""
        if self.cuda is not None:
            return tuple(image.path for image in self.cuda.images)
        static = () if self.c_api is None else (self.c_api.library,)
        return tuple(dict.fromkeys((self.library, *static)))


@dataclass(frozen=True)
class Manifest:
    """All of manifest.json. ``variants`` are in order of preference; ``files`` maps paths to sizes and digests.

    ``residual`` is a second input that is added to the output, None for a layer with one input.
    """

    path: Path
    name: str
    layer: dict[str, Any]
    ir: str
    input: TensorSpec
    output: TensorSpec
    weights_drawn: bool
    variants: tuple[VariantEntry, ...]
    files: dict[str, FileEntry]
    tools: dict[str, str]
    residual: TensorSpec | None = None


def read_manifest(path: Path, signed_by: Sequence[bytes] = ()) -> Manifest:
    """The manifest of the artifact in the folder ``path``. Checks no other file. Raises ``ArtifactError``.

    ``signed_by``: public keys of which one must have signed it; empty where no signature is asked for.
    """
    try:
        found = (path / MANIFEST).exists() or (path / MANIFEST).is_symlink()
    except OSError:  # a name that is too long
        found = False
    if not found:
        raise ArtifactError(f"{path}: not an artifact, which is a folder that holds {MANIFEST}")
    data = read_bounded(path, MANIFEST, MOST_BYTES)
    if signed_by:
        check_signature(path, data, signed_by)
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest in ``data``, of the artifact at ``path``. Raises ``ArtifactError`` naming key and value."""
    top = Fields(parse_json(data, str(path / MANIFEST)), str(path / MANIFEST))
    if top.text("format") != FORMAT:
        raise ArtifactError(f"{top.where}: not the manifest of a sepcompile artifact")
    version = top.take("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArtifactError(f"{top.where}.format_version: {version!r:.100}; this loader reads version {FORMAT_VERSION}")
    files = _files(Fields(top.take("files"), f"{top.where}: files"))
    variants = top.array("variants", 64)
    manifest = Manifest(
        path=path,
        name=top.text("name", r".{1,200}"),
        layer=top.mapping("layer"),
        ir=top.text("ir"),
        input=_spec(Fields(top.take("input"), f"{top.where}: input")),
        output=_spec(Fields(top.take("output"), f"{top.where}: output")),
        weights_drawn=top.flag("weights_drawn"),
        variants=tuple(_variant(Fields(v, f"{top.where}: variants[{i}]")) for i, v in enumerate(variants)),
        files=files,
        tools=_tools(top.mapping("tools"), f"{top.where}: tools"),
        residual=_spec(Fields(top.take("residual"), f"{top.where}: residual")) if top.has("residual") else None,
    )
    top.done()
    _check_whole(manifest)
    return manifest


def _files(fields: Fields) -> dict[str, FileEntry]:
    files = {}
    for path in list(fields.left()):
        if not re.fullmatch(PATH_PATTERN, path, re.ASCII) or path == MANIFEST:
            raise ArtifactError(f"{fields.where}: path {path[:200]!r} is not a plain relative path")
        entry = Fields(fields.take(path), f"{fields.where}.{path}")
        files[path] = FileEntry(path, entry.whole("bytes"), entry.text("sha256", _SHA256))
        entry.done()
    return files


def _tools(tools: dict[str, Any], where: str) -> dict[str, str]:
    for name, version in tools.items():
        if not isinstance(version, str):
            raise ArtifactError(f"{where}.{name[:80]}: {version!r:.100}; expected a string")
    return tools


def _shape(values: list[Any], where: str) -> tuple[int, ...]:
    return tuple(whole(size, where, 0, _MOST_SIZE) for size in values)


def _spec(fields: Fields) -> TensorSpec:
    values = fields.array("shape", 8)
    if not values:
        raise fields.error("shape", values, "at least the batch")
    batch = None if values[0] is None else whole(values[0], f"{fields.where}.shape[0]", 0, _MOST_SIZE)
    tail = tuple(whole(size, f"{fields.where}.shape", 1, _MOST_SIZE) for size in values[1:])
    if math.prod(tail) * (batch or 1) > _MOST_ELEMENTS:
        raise fields.error("shape", values, f"at most {_MOST_ELEMENTS} elements")
    dtype = fields.text("dtype", "float16|bfloat16|float32|float64")
    fields.done()
    narrow = dtype == "bfloat16"
    return TensorSpec((batch, *tail), np.dtype("float32" if narrow else dtype), narrow)


def _variant(fields: Fields) -> VariantEntry:
    arch, family = fields.text("arch", _WORD), fields.text("family", _WORD)
    arches = {FAMILY: (ARCH,), BARE_FAMILY: BARE_ARCHES}.get(family, ARCHES)
    if arch not in arches:
        raise fields.error("arch", arch, f"one of {', '.join(arches)}")
    entry = Fields(fields.take("entry"), f"{fields.where}.entry")
    weights = fields.mapping("weights")
    plan = _plan(Fields(fields.take("plan"), f"{fields.where}.plan"))
    cuda = None
    if family == FAMILY:
        cuda = read_cuda(Fields(fields.take("cuda"), f"{fields.where}.cuda"), len(plan.steps))
    variant = VariantEntry(
        target=fields.text("target", r".{1,100}"),
        family=family,
        arch=arch,
        requires=fields.texts("requires", _WORD),
        library=fields.text("library", PATH_PATTERN),
        symbol=entry.text("symbol", _IDENTIFIER),
        abi=entry.whole("abi"),
        plan=plan,
        schedule=fields.mapping("schedule"),
        schedule_source=fields.text("schedule_source", r".{0,1000}"),
        weights=tuple(_weight(name, Fields(weights[name], f"{fields.where}.weights.{name[:80]}")) for name in weights),
        cuda=cuda,
        c_api=_static(Fields(fields.take("c_api"), f"{fields.where}.c_api")) if fields.has("c_api") else None,
    )
    entry.done()
    fields.done()
    if variant.bare and (variant.c_api is None or variant.c_api.library != variant.library):
        raise ArtifactError(f"{fields.where}: family {family!r} needs c_api with the same library")
    return variant


def _static(fields: Fields) -> StaticEntry:
    library, stack = fields.text("library", PATH_PATTERN), fields.take("stack_bytes")
    if stack is not None:
        stack = whole(stack, f"{fields.where}.stack_bytes")
    sizes = {f"{what}_bytes": fields.whole(f"{what}_bytes") for what in _STATIC_SIZES}
    static = StaticEntry(library=library, stack_bytes=stack, **sizes)
    fields.done()
    return static


def _weight(name: str, fields: Fields) -> WeightEntry:
    weight = WeightEntry(
        name,
        fields.text("key", r".{1,300}"),
        fields.text("dtype", "|".join(DTYPES)),
        _shape(fields.array("shape", 16), f"{fields.where}.shape"),
    )
    fields.done()
    return weight


def _plan(fields: Fields) -> PlanEntry:
    steps = [_step(Fields(v, f"{fields.where}.steps[{i}]")) for i, v in enumerate(fields.array("steps", 64))]
    buffers = []
    for index, value in enumerate(fields.array("intermediates", 64)):
        buffer = Fields(value, f"{fields.where}.intermediates[{index}]")
        buffers.append((buffer.text("name", _WORD), buffer.whole("bytes")))
        buffer.done()
    plan = PlanEntry(tuple(steps), tuple(buffers), fields.whole("x_bytes"), fields.whole("y_bytes"))
    fields.done()
    return plan


def _step(fields: Fields) -> StepEntry:
    step = StepEntry(
        fields.text("symbol", _IDENTIFIER),
        fields.texts("operands", r".{1,200}"),
        fields.whole("tasks", 1, _MOST_SIZE),
        fields.whole("scratch_bytes"),
        fields.whole("macs_per_task", 0, 2**62),
    )
    fields.done()
    return step


def _check_whole(manifest: Manifest) -> None:
    """What has to fit together between the parts."""
    where = str(manifest.path / MANIFEST)
    if manifest.input.shape[0] != manifest.output.shape[0]:
        raise ArtifactError(f"{where}: input {manifest.input} and output {manifest.output} differ in the batch")
    if manifest.residual not in (None, manifest.output):
        raise ArtifactError(f"{where}: residual {manifest.residual} must be like the output, {manifest.output}")
    if not manifest.variants:
        raise ArtifactError(f"{where}: variants is empty; at least one is needed")
    targets = [variant.target for variant in manifest.variants]
    if len(set(targets)) != len(targets):
        raise ArtifactError(f"{where}: variants name a target twice: {', '.join(targets)}")
    for needed in (WEIGHTS, SELFTEST, *(path for variant in manifest.variants for path in variant.images)):
        if needed not in manifest.files:
            raise ArtifactError(f"{where}: files lacks {needed}")
    for variant in manifest.variants:
        _check_plan(variant, manifest, f"{where}: variant {variant.target!r}")


def _check_plan(variant: VariantEntry, manifest: Manifest, where: str) -> None:
    plan = variant.plan
    if not plan.steps:
        raise ArtifactError(f"{where}: its plan has no steps")
    for what, size, spec in (("x", plan.x_bytes, manifest.input), ("y", plan.y_bytes, manifest.output)):
        expected = math.prod(int(n or 0) for n in spec.shape[1:]) * spec.itemsize
        if size != expected:
            raise ArtifactError(f"{where}: {what}_bytes is {size}; {spec} has {expected} per image")
    known = {"x", "y", *(f"w:{weight.name}" for weight in variant.weights), *(f"t:{t}" for t, _ in plan.intermediates)}
    if variant.cuda is not None:
        known |= set(SCALARS)
    if manifest.residual is not None:
        known |= {RESIDUAL}
    for step in plan.steps:
        for operand in step.operands:
            if operand not in known:
                raise ArtifactError(f"{where}: step {step.symbol} has the unknown operand {operand!r}")
