"""Builds what `gpu_check.py` carries to a machine with a GPU: kernels, launch records, layers; no weights, no data.

    python benchmarks/gpu_pack.py build/gpu [--candidates 8] [--layers mnv1_b1,qn_33]

Weights are drawn there from the same seeds. Compiling needs sepcompile[cuda], and no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

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
DTYPES = ("float32", "float16")
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
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="of the suite's layers")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    packer = _Packer(arguments.folder, arguments.target, arguments.candidates)
    for name, config, shape in GRID:
        for dtype in DTYPES:
            packer.add("grid", f"{name} {config} {shape}", name, {**config, "dtype": dtype}, shape)
    wanted = set(filter(None, arguments.layers.split(",")))
    for layer in load("dev"):
        if not wanted or layer.name in wanted:
            for dtype in arguments.dtypes.split(","):
                config = {**layer.config, "dtype": dtype}
                packer.add("suite", layer.name, layer.class_name, config, layer.input_shape[1:])
    (arguments.folder / "cases.json").write_text(json.dumps(packer.cases))
    total = sum(path.stat().st_size for path in arguments.folder.iterdir())
    print(f"{len(packer.cases)} cases, {total / 2**20:.1f} MB in {arguments.folder}")


class _Packer:
    def __init__(self, folder: Path, target: str, most: int) -> None:
        self.folder, self.target, self.most = folder, get_target(target), most
        self.cases: list[dict[str, Any]] = []
        self._images = 0

    def add(self, kind: str, label: str, class_name: str, config: dict[str, Any], shape: tuple[int, ...]) -> None:
        causal = config.get("padding") == "causal"
        source = {"class_name": class_name, "config": config}
        version = "2" if causal and class_name.endswith("1D") else "3.15"
        layer = read_layer(source, input_shape=(None, *shape), keras_version=version)
        form, _ = read_program(layer.program, layer.weights)
        batches = BATCHES if kind == "suite" else (3,)
        assert self.target.gpu is not None
        chosen = {batch: cuda.choose(form, self.target.gpu, batch) for batch in batches}
        records = list(dict.fromkeys(chosen.values()))
        if kind == "suite" and self.most > 1:
            records = list(dict.fromkeys([*records, *cuda.candidates(form)[: self.most]]))
        builds = {record: built for record in records if (built := self._build(form, record)) is not None}
        self.cases.append({
            "kind": kind, "label": label, "source": source, "shape": list(shape), "keras_version": version,
            "dtype": config["dtype"], "builds": list(builds.values()),
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
