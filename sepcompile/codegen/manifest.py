"""The manifest of an artifact, as ``sepcompile.runtime.manifest`` reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from sepcompile.codegen.c_api import StaticLibrary
from sepcompile.codegen.entry import ENTRY_ABI
from sepcompile.codegen.plan import Launch, Plan
from sepcompile.codegen.tensors import dtype_code
from sepcompile.errors import CompileError
from sepcompile.ir.stages import TensorSpec
from sepcompile.runtime.cuda_manifest import CUDA_ABI
from sepcompile.runtime.manifest import FORMAT, FORMAT_VERSION


@dataclass(frozen=True)
class VariantRecord:
    """One variant in the manifest; ``keys`` maps a weight's name to its key in weights.safetensors.

    ``archive`` is the path of its static library.
    """

    target: str
    family: str
    arch: str
    requires: tuple[str, ...]
    library: str
    symbol: str
    plan: Plan
    schedule: Mapping[str, object]
    schedule_source: str
    weights: Mapping[str, np.ndarray]
    keys: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)
    launches: tuple[Launch, ...] = ()
    precision: str = "float32"
    static: StaticLibrary | None = None
    archive: str = ""


def manifest_text(
    *,
    name: str,
    layer: Mapping[str, object],
    ir: str,
    input: TensorSpec,
    output: TensorSpec,
    weights_drawn: bool,
    variants: Sequence[VariantRecord],
    files: Mapping[str, bytes],
    tools: Mapping[str, str],
    residual: TensorSpec | None = None,
) -> bytes:
    """The bytes of manifest.json; the same arguments give the same bytes.

    Raises ``CompileError`` where ``layer`` or a schedule is not JSON.
    """
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "layer": layer,
        "ir": ir,
        "input": _spec(input),
        "output": _spec(output),
        "weights_drawn": weights_drawn,
        "variants": [_variant(variant) for variant in variants],
        "files": {
            path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
        },
        "tools": dict(tools),
    }
    if residual is not None:
        manifest["residual"] = _spec(residual)
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CompileError(f"artifact {name!r}: layer or schedule cannot be written as JSON: {error}") from error


def _spec(spec: TensorSpec) -> dict[str, object]:
    return {"shape": list(spec.shape), "dtype": spec.dtype}


def _variant(variant: VariantRecord) -> dict[str, object]:
    return {
        "target": variant.target,
        "family": variant.family,
        "arch": variant.arch,
        "requires": sorted(variant.requires),
        "library": variant.library,
        "entry": {"symbol": variant.symbol, "abi": CUDA_ABI if variant.images else ENTRY_ABI},
        "plan": _plan(variant.plan),
        "schedule": dict(variant.schedule),
        "schedule_source": variant.schedule_source,
        "weights": {
            name: {"key": variant.keys[name], "dtype": dtype_code(array.dtype), "shape": list(array.shape)}
            for name, array in variant.weights.items()
        },
    } | _cuda(variant) | _c_api(variant)


def _cuda(variant: VariantRecord) -> dict[str, object]:
    if not variant.images:
        return {}
    launches = [asdict(launch) for launch in variant.launches]
    return {"cuda": {"images": dict(variant.images), "launches": launches, "precision": variant.precision}}


def _c_api(variant: VariantRecord) -> dict[str, object]:
    """The static library and what it takes of a device."""
    library = variant.static
    if library is None:
        return {}
    sizes = {
        "code_bytes": library.code,
        "constant_bytes": library.constants,
        "data_bytes": library.data,
        "flash_bytes": library.flash,
        "input_bytes": library.input,
        "output_bytes": library.output,
        "arena_bytes": library.arena,
        "ram_bytes": library.ram,
        "stack_bytes": library.stack,
    }
    return {"c_api": {"library": variant.archive, **sizes}}


def _plan(plan: Plan) -> dict[str, object]:
    return {
        "steps": [
            {
                "symbol": step.symbol,
                "operands": list(step.operands),
                "tasks": step.tasks,
                "scratch_bytes": step.scratch_bytes,
                "macs_per_task": step.macs_per_task,
            }
            for step in plan.steps
        ],
        "intermediates": [{"name": name, "bytes": size} for name, size in plan.intermediates],
        "x_bytes": plan.x_bytes,
        "y_bytes": plan.y_bytes,
    }
