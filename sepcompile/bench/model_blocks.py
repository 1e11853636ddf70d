"""The separable blocks of a model as rows of a benchmark, with the model's weights.

A peer gets the block as its own converter would leave it: BatchNormalization folded into kernels and biases, and the
rest as operators (activation, depthwise convolution, 1x1 convolution, addition) that it may fuse as it likes.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import ALONE, Around, Array, BenchLayer, CaseData, geometry, save_case
from sepcompile.bench.peers.ours import ARTIFACT, FAILURE
from sepcompile.bench.reference import evaluate

if TYPE_CHECKING:
    from sepcompile.compute.form import Form
    from sepcompile.frontend import ImportedLayer
    from sepcompile.ir.stages import Activation

_PLAIN = ("linear", "elu", "silu", "hard_silu")
_NO_LIMIT = 1e30


@dataclass(frozen=True)
class Block:
    """One row: the block as peers see it, its numbers, the program that is compiled, and for how many it stands."""

    layer: BenchLayer
    data: CaseData
    imported: ImportedLayer
    count: int = 1


@dataclass(frozen=True)
class Blocks:
    """The rows of a model; ``notes`` say which blocks are none and why. ``macs`` are those of the whole model."""

    rows: tuple[Block, ...]
    notes: tuple[str, ...]
    macs: int = 0


def find(
    model: object, patterns: Sequence[str] = (), *, input_shape: object = None, every: bool = False, seed: int = 0,
    prefix: str = "",
) -> Blocks:  # fmt: skip
    """The blocks of a model in any form that ``sepcompile.compile`` takes, for one image.

    ``patterns`` pick layers as in ``compile``; ``every`` keeps blocks of the same sizes apart, of which otherwise the
    first stands for all. ``prefix`` goes before each row's name. Raises ``BenchError`` where no block can be raced, and
    what ``read_model`` raises.
    """
    from sepcompile.errors import SepcompileError
    from sepcompile.frontend.model import read_model, report

    read = read_model(model, input_shape=input_shape)
    rows: dict[str, Block] = {}
    notes: list[str] = []
    for unit in read.select(tuple(patterns)):
        try:
            block = _row(read.build(unit, seed), f"{prefix}{unit.name}", seed)
        except (SepcompileError, BenchError) as cause:
            notes.append(f"{prefix}{unit.name} is not raced: {cause}")
            continue
        key = unit.name if every else json.dumps(replace(block.layer, name="").to_json(), sort_keys=True)
        known = rows.get(key)
        rows[key] = block if known is None else replace(known, count=known.count + 1)
    if not rows:
        why = "".join(f"; {note}" for note in notes[:1])
        raise BenchError(f"{read.graph.label}: no block of it can be raced{why}")
    return Blocks(tuple(rows.values()), tuple(notes), report(read).macs)


def write_cases(blocks: Sequence[Block], folder: Path) -> None:
    """Data and expected output of every block."""
    for block in blocks:
        expected = evaluate(geometry(block.layer), block.data)
        save_case(folder / block.layer.name, block.layer, block.data, expected)


def compile_block(block: Block, folder: Path, target: str) -> str:
    """Compile a block into its case's folder; returns the reason of a failure, or an empty string."""
    from sepcompile import api

    failure, artifact = folder / FAILURE, folder / ARTIFACT
    failure.unlink(missing_ok=True)
    shutil.rmtree(artifact, ignore_errors=True)
    try:
        api.write_layer(block.imported, api.find_targets(target), None, artifact, cache=True, database=True)
    except Exception as error:  # whatever the compiler throws becomes the row's reason
        reason = f"compile: {type(error).__name__}: {error}"
        failure.write_text(json.dumps({"reason": reason[:500]}), encoding="utf-8")
        return reason
    return ""


# ---- from a program to a row ---------------------------------------------------------------------------------------


def _row(imported: ImportedLayer, name: str, seed: int) -> Block:
    from sepcompile.compute.form import read_form

    program, weights = imported.program, imported.weights
    form = read_form(program, {key: array.shape for key, array in weights.items()})
    if "float16" in (form.in_dtype, form.out_dtype):
        raise BenchError("its tensors are float16, and peers are raced in float32")
    layer = _layer(form, name, program.input.shape)
    geo = geometry(layer)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def weight(key: str | None) -> Array | None:
        return None if key is None else weights[key]

    def image(shape: Sequence[int]) -> Array:
        return rng.standard_normal(tuple(shape), dtype=np.float32)

    data = CaseData(
        x=image(geo.nhwc_in),
        depthwise=weights[form.depthwise.weight],
        pointwise=weight(form.pointwise.weight if form.pointwise else None),
        bias=weight(form.final.bias),
        middle_bias=weight(form.middle.bias),
        residual=image(geo.nhwc_out) if geo.around.residual else None,
    )
    return Block(layer, data, imported)


def _layer(form: Form, name: str, shape: Sequence[int | None]) -> BenchLayer:
    depthwise, one_d = form.depthwise, len(shape) == 3
    if form.rowwise is not None:
        raise BenchError(f"{form.rowwise.kind} over an axis has no counterpart here")
    around = Around(
        before=_word(form.pre),
        middle=_word(form.middle.activation),
        middle_bias=form.middle.bias is not None,
        residual=form.final.residual is not None,
        last=_word(form.final.last),
    )
    pads = list(zip(form.pad_before, form.pad_after, strict=True))
    config: dict[str, Any] = {
        "kernel_size": list(depthwise.kernel_size)[one_d:],
        "strides": list(depthwise.strides)[one_d:],
        "dilation_rate": list(depthwise.dilation_rate)[one_d:],
        "padding": [list(pair) for pair in pads],
        "depth_multiplier": depthwise.depth_multiplier,
        "use_bias": form.final.bias is not None,
        "activation": _word(form.final.activation),
        "data_format": "channels_first" if form.channels_first_in else "channels_last",
    }
    if form.pointwise is not None:
        config["filters"] = form.pointwise.filters
    if around != ALONE:
        config["block"] = vars(around)
    kind = f"{'Depthwise' if form.pointwise is None else 'Separable'}Conv{1 if one_d else 2}D"
    return BenchLayer(name, kind, tuple(size or 1 for size in shape), config)


def _word(stage: Activation | None) -> str:
    """An activation under the benchmark's name for it. Raises ``BenchError`` where it has none."""
    if stage is None:
        return "linear"
    params = dict(stage.params)
    if stage.kind == "relu" and not params["negative_slope"] and not params["threshold"]:
        limits = {6.0: "relu6"} | ({params["max_value"]: "relu"} if params["max_value"] > _NO_LIMIT else {})
        if params["max_value"] in limits:
            return limits[params["max_value"]]
    if stage.kind in _PLAIN and params.get("alpha", 1.0) == 1.0:
        return stage.kind
    described = ", ".join(f"{key}={value:g}" for key, value in params.items())
    raise BenchError(f"the activation {stage.kind}({described}) has no counterpart in the peers' adapters")

