"""Builds what `gpu_check.py` carries to a machine with a GPU: kernels, launch records, layers; no weights, no data.

    python benchmarks/gpu_pack.py build/gpu [--candidates 8] [--layers mnv1_b1,qn_33] [--types bfloat16,tf32]

Weights are drawn there from the same seeds. Compiling needs sepcompile[cuda], and no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.suites import load
from sepcompile.codegen import cuda_lower
from sepcompile.codegen.plan import CompiledKernels
from sepcompile.codegen.variant import read_program
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.frontend import read_layer
from sepcompile.schedule import cuda
from sepcompile.targets import get_target

BATCHES = (1, 32, 128)
# What is multiplied; tf32 is a float32 layer whose products may round their operands.
TYPES = ("float32", "tf32", "float16", "bfloat16")
HELD_OUT = 6  # layers of the suite that schedules were not chosen by, evenly spread
MOST_BYTES = 64 << 20  # what travels to a machine with a GPU
GRID: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("SeparableConv2D", {"filters": 64, "kernel_size": 3, "padding": "same", "activation": "relu6"}, (14, 15, 32)),
    ("SeparableConv2D", {"filters": 33, "kernel_size": 3, "strides": 2, "padding": "same"}, (15, 14, 17)),
    ("SeparableConv2D", {"filters": 7, "kernel_size": (5, 3), "padding": "valid"}, (13, 12, 40)),
    ("SeparableConv2D", {"filters": 100, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"}, (11, 13, 24)),
    ("SeparableConv2D", {"filters": 12, "kernel_size": 4, "depth_multiplier": 3, "padding": "same"}, (6, 7, 6)),
    ("SeparableConv2D", {"filters": 48, "kernel_size": 3, "data_format": "channels_first"}, (20, 9, 11)),
    ("SeparableConv2D", {"filters": 20, "kernel_size": 3, "activation": "softmax"}, (8, 9, 12)),
    ("SeparableConv2D", {"filters": 20, "kernel_size": 3, "activation": "gelu"}, (8, 9, 12)),
    ("SeparableConv1D", {"filters": 40, "kernel_size": 33, "padding": "same", "activation": "relu"}, (77, 32)),
    ("SeparableConv1D", {"filters": 64, "kernel_size": 3, "dilation_rate": 8, "padding": "causal"}, (50, 24)),
    ("SeparableConv1D", {"filters": 20, "kernel_size": 87, "dilation_rate": 2, "padding": "same"}, (40, 16)),
    ("SeparableConv2D", {"filters": 64, "kernel_size": 3, "padding": "same"}, (9, 7, 64)),
    ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same", "activation": "relu6"}, (15, 14, 128)),
    ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}, (15, 14, 40)),
    ("DepthwiseConv2D", {"kernel_size": 7, "padding": "same"}, (10, 11, 33)),
    ("DepthwiseConv2D", {"kernel_size": 3, "dilation_rate": 3, "data_format": "channels_first"}, (6, 12, 13)),
    ("DepthwiseConv1D", {"kernel_size": 31, "padding": "same", "activation": "silu"}, (90, 48)),
    ("DepthwiseConv1D", {"kernel_size": 4, "strides": 3, "depth_multiplier": 3}, (29, 7)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="cuda-sm_90")
    parser.add_argument("--candidates", type=int, default=1, help="schedules per layer; 1 is the heuristic's alone")
    parser.add_argument("--layers", default="", help="names of the suite's layers, all by default")
    parser.add_argument("--types", default=",".join(TYPES), help=f"of the suite's layers, of {', '.join(TYPES)}")
    parser.add_argument("--no-grid", action="store_true", help="leave out the layers that are only checked")
    arguments = parser.parse_args()
    types = arguments.types.split(",")
    if unknown := sorted(set(types) - set(TYPES)):
        parser.error(f"--types: {unknown[0]!r} is none of {', '.join(TYPES)}")
    suite = _suite()
    wanted = set(filter(None, arguments.layers.split(",")))
    if unknown := sorted(wanted - {layer.name for layer in suite}):
        parser.error(f"--layers: {unknown[0]!r} is none of {', '.join(layer.name for layer in suite)}")
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    packer = _Packer(arguments.folder, arguments.target, arguments.candidates)
    for name, config, shape in () if arguments.no_grid else GRID:
        for kind in TYPES:
            packer.add("grid", f"{name} {config} {shape}", name, config, shape, kind)
    for layer in suite:
        if not wanted or layer.name in wanted:
            for kind in types:
                packer.add("suite", layer.name, layer.class_name, layer.config, layer.input_shape[1:], kind)
    (arguments.folder / "cases.json").write_text(json.dumps(packer.cases))
    total = sum(path.stat().st_size for path in arguments.folder.iterdir())
    print(f"{len(packer.cases)} cases, {total / 2**20:.1f} MB in {arguments.folder}")
    if total > MOST_BYTES:
        sys.exit(f"gpu_pack: that is more than {MOST_BYTES >> 20} MB; give fewer --candidates, --layers or --types")


def _suite() -> list[BenchLayer]:
    """The development suite and some of the held-out one, whose layers no schedule was chosen by."""
    held_out = load("held-out")
    return [*load("dev"), *held_out[:: max(1, len(held_out) // HELD_OUT)][:HELD_OUT]]


class _Packer:
    def __init__(self, folder: Path, target: str, most: int) -> None:
        self.folder, self.target, self.most = folder, get_target(target), most
        self.cases: list[dict[str, Any]] = []
        self._images = 0

    def add(
        self, kind: str, label: str, class_name: str, config: dict[str, Any], shape: tuple[int, ...], multiplied: str
    ) -> None:
        config = {**config, "dtype": "float32" if multiplied == "tf32" else multiplied}
        causal = config.get("padding") == "causal"
        source = {"class_name": class_name, "config": config}
        version = "2" if causal and class_name.endswith("1D") else "3.15"
        layer = read_layer(source, input_shape=(None, *shape), keras_version=version)
        form, _ = read_program(layer.program, layer.weights)
        if multiplied == "tf32":
            if form.pointwise is None:
                return  # nothing to multiply: as float32
            form = dataclasses.replace(form, precision=multiplied)
        batches = BATCHES if kind == "suite" else (3,)
        assert self.target.gpu is not None
        chosen = {batch: cuda.choose(form, self.target.gpu, batch) for batch in batches}
        records = list(dict.fromkeys(chosen.values()))
        if kind == "suite" and self.most > 1:
            records = list(dict.fromkeys([*records, *cuda.candidates(form, self.target.gpu.capability)[: self.most]]))
        builds = {record: built for record in records if (built := self._build(form, record)) is not None}
        self.cases.append({
            "kind": kind, "label": label, "source": source, "shape": list(shape), "keras_version": version,
            "dtype": config["dtype"], "multiplied": multiplied, "builds": list(builds.values()),
            "chosen": {batch: list(builds).index(record) for batch, record in chosen.items() if record in builds},
        })  # fmt: skip

    def _build(self, form: Form, record: CudaSchedule) -> dict[str, Any] | None:
        try:
            kernels = cuda_lower.compile_form(form, record, self.target.images, symbol="layer")
        except Exception as error:  # one candidate that fails must not end the packing
            print("not built:", record, type(error).__name__, str(error)[-300:].replace("\n", " "), flush=True)
            return None
        return {"schedule": record.to_json(), **self._plan(kernels)}

    def _plan(self, kernels: CompiledKernels) -> dict[str, Any]:
        images = {}
        for arch, image in kernels.images:
            images[arch] = f"{self._images}.bin"
            (self.folder / images[arch]).write_bytes(image)
            self._images += 1
        return {
            "plan": dataclasses.asdict(kernels.plan),
            "launches": [dataclasses.asdict(launch) for launch in kernels.launches],
            "images": images,
        }


if __name__ == "__main__":
    main()
