"""Checks and times the packed kernels on a GPU, beside PyTorch. Needs NumPy and PyTorch; not TVM, not a compiler.

    python benchmarks/gpu_pack.py build/gpu            # anywhere
    python benchmarks/gpu_check.py build/gpu results   # on the machine with the GPU

Correctness first: fresh random inputs, poisoned outputs, float64 references. Then times: CUDA graph replays that go
round more inputs and outputs than the L2 cache holds, ours and PyTorch's (cuDNN, channels_last) in turn. PyTorch's TF32
is off beside our float32 and on beside our tf32. torch.compile takes minutes for a layer: --compile says for which.
Writes gpu_check.json and gpu_check.md into the results' folder as it goes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_table

from sepcompile.compute.cuda_packing import pack_weights
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form, read_form
from sepcompile.frontend import ImportedLayer, read_layer
from sepcompile.ir.passes import canonicalize, fold_scale_shift
from sepcompile.ir.reference import evaluate
from sepcompile.ir.rounding import round_to
from sepcompile.ir.stages import TensorSpec as IrTensorSpec
from sepcompile.runtime.cuda import CudaLayer
from sepcompile.runtime.cuda_manifest import CudaEntry, ImageEntry, LaunchEntry
from sepcompile.runtime.inputs import TensorSpec
from sepcompile.runtime.manifest import PlanEntry, StepEntry

Case = dict[str, Any]
# Relative, of the whole result: a few times the unit roundoff of what is multiplied.
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.6e-2}
ROTATED_BYTES = 200 << 20  # more than any L2 cache
MOST_SETS = 48
SANITIZER_S = 60
_START = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=500, help="start nothing new after this")
    parser.add_argument("--batches", default="1,32,128")
    parser.add_argument("--compile", default="", help="layers that torch.compile is timed on, by name, or all")
    parser.add_argument("--compile-seconds", type=float, default=200, help="start no torch.compile after so much of it")
    parser.add_argument("--only", default="", help="grid for correctness alone, or one of " + ", ".join(TOLERANCE))
    arguments = parser.parse_args()
    if arguments.only not in ("", "grid", *TOLERANCE):
        parser.error(f"--only: {arguments.only!r} is none of grid, {', '.join(TOLERANCE)}")
    if not all(part.isdigit() and int(part) for part in arguments.batches.split(",")):
        parser.error(f"--batches: {arguments.batches!r} is not whole numbers with commas between them")
    if not (arguments.folder / "cases.json").is_file():
        parser.error(f"{arguments.folder} holds no cases.json: make it with benchmarks/gpu_pack.py")
    torch = find_torch()
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    cases = json.loads((arguments.folder / "cases.json").read_text())
    check = Check(torch, arguments.folder, [int(batch) for batch in arguments.batches.split(",")], arguments.seconds)
    labels = {case["label"] for case in cases if case["kind"] == "suite"}
    check.compiled = labels if arguments.compile == "all" else set(filter(None, arguments.compile.split(",")))
    if unknown := sorted(check.compiled - labels):
        parser.error(f"--compile: {unknown[0]!r} is none of all, {', '.join(sorted(labels))}")
    check.compile_seconds = arguments.compile_seconds
    report: dict[str, Any] = {"machine": {}, "grid": [], "suite": []}
    if arguments.only != "grid":
        report["machine"] = describe(torch)
    for case in cases:
        if case["kind"] == "grid":
            report["grid"].append(check.correctness(case))
    wrong = [row for row in report["grid"] if not row["passed"]]
    print(f"correctness: {len(report['grid']) - len(wrong)} of {len(report['grid'])} passed", flush=True)
    for row in wrong:
        print("WRONG", row, flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    if arguments.only == "":
        report["sanitizer"] = sanitize(arguments.folder, arguments.results)
    for case in cases:
        if case["kind"] == "suite" and arguments.only in ("", case["multiplied"]):
            report["suite"] += check.times(case)
            write(report, arguments.results)
    write(report, arguments.results)
    print(gpu_table.markdown(report))


def write(report: dict[str, Any], folder: Path) -> None:
    """What is known so far, for programs and as a table."""
    (folder / "gpu_check.json").write_text(json.dumps(report))
    (folder / "gpu_check.md").write_text(gpu_table.markdown(report))


def sanitize(folder: Path, results: Path) -> dict[str, str]:
    """What NVIDIA's compute-sanitizer finds in the grid, where it is installed: its last line by tool."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"": "not installed here"}
    found = {}
    grid = [sys.executable, __file__, str(folder), str(results / "sanitized"), "--only", "grid"]
    for tool in ("memcheck", "racecheck"):
        try:
            done = subprocess.run([program, "--tool", tool, *grid], capture_output=True, text=True, timeout=SANITIZER_S)
            words = [line.strip("= ") for line in done.stdout.splitlines() if "SUMMARY" in line]
            found[tool] = words[-1] if words else f"ended with status {done.returncode} and no summary"
        except subprocess.TimeoutExpired:
            found[tool] = f"not ready after {SANITIZER_S} s"
        print("compute-sanitizer", tool, found[tool], flush=True)
    return found


def find_torch() -> Any:
    """PyTorch with a GPU; ends the program, saying what is missing, where there is none."""
    try:
        import torch
    except ImportError:
        sys.exit("gpu_check: this Python has no PyTorch; take one that has: make PYTHON=... gpu-check")
    if not torch.cuda.is_available():
        sys.exit("gpu_check: PyTorch finds no GPU here; carry the folder and this repository to a machine with one")
    return torch


def describe(torch: Any) -> dict[str, Any]:
    """The machine, and its ceilings measured now: a copy of device memory and a large bfloat16 matrix product."""
    properties = torch.cuda.get_device_properties(0)
    a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
    b = torch.empty_like(a)
    copy = timed(torch, [lambda: b.copy_(a)])
    m = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    product = timed(torch, [lambda: m @ m])
    return {
        "gpu": properties.name, "multiprocessors": properties.multi_processor_count, "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(), "copy_gbs": 2 * (2 << 30) / copy / 1e9,
        "bf16_tflops": 2 * 8192**3 / product / 1e12,
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
    }  # fmt: skip


def timed(torch: Any, calls: list[Callable[[], Any]], repeats: int = 9) -> float:
    """Seconds of one call, the median over replays of a graph of all ``calls``."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [call() for call in calls]
    graph.replay()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / len(calls))
    del kept
    return statistics.median(times)


class Check:
    def __init__(self, torch: Any, folder: Path, batches: list[int], seconds: float) -> None:
        self.torch, self.folder, self.batches, self.seconds = torch, folder, batches, seconds
        self.compiled: set[str] = set()
        self.compile_seconds = 0.0

    def correctness(self, case: Case) -> dict[str, Any]:
        """Each build on random data through PyTorch tensors and through NumPy, against float64."""
        torch = self.torch
        layer, form, folded = read(case)
        rng = np.random.default_rng(1)
        x = round_to(rng.standard_normal((3, *layer.program.input.shape[1:])), layer.program.input.dtype)
        reference = evaluate(layer.program, layer.weights, x)
        worst = 0.0
        for build in case["builds"]:
            ours = self.layer(case, build, layer, form, folded)
            dtype = getattr(torch, layer.program.output.dtype)
            out = torch.full(reference.shape, float("nan"), dtype=dtype, device="cuda")
            ours(torch.from_numpy(x).to(getattr(torch, layer.program.input.dtype)).cuda(), out)
            worst = max(worst, error(out.cpu().float().numpy(), reference), error(ours(x), reference))
        limit = TOLERANCE[case["multiplied"]]
        return {"label": case["label"], "dtype": case["multiplied"], "error": worst, "passed": bool(worst <= limit)}

    def layer(
        self, case: Case, build: dict[str, Any], layer: ImportedLayer, form: Form, weights: dict[str, Any]
    ) -> CudaLayer:
        record = CudaSchedule.from_json(build["schedule"])
        plan, images = build["plan"], build["images"]
        steps = tuple(StepEntry(**{**step, "operands": tuple(step["operands"])}) for step in plan["steps"])
        sizes = tuple((str(name), int(size)) for name, size in plan["intermediates"])
        launches = tuple(LaunchEntry(**{**launch, "block": tuple(launch["block"])}) for launch in build["launches"])
        program = layer.program
        return CudaLayer(
            name=case["label"],
            variant="cuda",
            plan=PlanEntry(steps, sizes, plan["x_bytes"], plan["y_bytes"]),
            cuda=CudaEntry(tuple(ImageEntry(arch, path) for arch, path in images.items()), launches),
            read_image=lambda image: (self.folder / image.path).read_bytes(),
            weights=pack_weights(form, record, weights),
            input_spec=spec(program.input),
            output_spec=spec(program.output),
        )

    def times(self, case: Case) -> list[dict[str, Any]]:
        """Rows of the table for one layer: each batch, our builds and the peers."""
        rows = []
        layer, form, folded = read(case)
        builds = [self.layer(case, build, layer, form, folded) for build in case["builds"]]
        for batch in self.batches:
            if time.monotonic() - _START > self.seconds:
                print("out of time:", case["label"], case["multiplied"], batch, flush=True)
                continue
            rows.append(self._row(case, layer, form, builds, batch))
            print_row(rows[-1])
        return rows

    def _row(self, case: Case, layer: ImportedLayer, form: Form, builds: list[CudaLayer], batch: int) -> dict[str, Any]:
        torch = self.torch
        data = Data(torch, layer, form, batch)
        found: list[float | None] = []
        right = []
        reference = data.peer(data.inputs[0].double(), torch.float64)
        for ours in builds:
            try:
                data.outputs[0].fill_(float("nan"))
                ours(data.inputs[0], data.outputs[0])
                off = float((data.outputs[0].double() - reference).norm() / reference.norm())
                right.append(off <= TOLERANCE[case["multiplied"]])
                pairs = list(zip(data.inputs, data.outputs, strict=True))
                found.append(timed(torch, [lambda x=x, y=y, ours=ours: ours(x, y) for x, y in pairs]))
            except Exception as problem:  # one build that fails must not end the table
                print("FAILED", case["label"], case["multiplied"], batch, problem, flush=True)
                right.append(False)
                found.append(None)
        del reference
        chosen = case["chosen"].get(str(batch))
        return {
            "layer": case["label"], "dtype": case["multiplied"], "batch": batch, "builds": found, "right": right,
            "chosen": chosen, "ours": found[chosen] if chosen is not None else None,
            "schedules": [build["schedule"] for build in case["builds"]],
            "peers": self._peers(case, data), "floor": floor(form, case["multiplied"], batch),
        }  # fmt: skip

    def _peers(self, case: Case, data: Data) -> dict[str, float]:
        torch, peers = self.torch, {}
        dtype = getattr(torch, case["dtype"])

        def calls(run: Callable[[Any], Any]) -> list[Callable[[], Any]]:
            return [lambda x=x: run(x) for x in data.inputs]

        def run(x: Any) -> Any:
            return data.peer(x, dtype)

        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case["multiplied"] == "tf32"
        runs = {"torch": lambda: run}
        start = time.monotonic()
        late = start - _START > self.seconds
        if case["label"] in self.compiled and self.compile_seconds > 0 and not late:
            torch._dynamo.reset()
            runs["torch.compile"] = lambda: torch.compile(run, mode="max-autotune-no-cudagraphs")
        for name, make in runs.items():
            try:
                peers[name] = timed(torch, calls(make()))
            except Exception as problem:
                print("peer failed:", name, case["label"], str(problem)[:200], flush=True)
        if "torch.compile" in runs:
            self.compile_seconds -= time.monotonic() - start
        return peers


class Data:
    """Inputs and outputs for rotation, and the layer in PyTorch's operators."""

    def __init__(self, torch: Any, layer: ImportedLayer, form: Form, batch: int) -> None:
        self.torch, self.form = torch, form
        program = layer.program
        shape = (batch, *(int(size or 0) for size in program.input.shape[1:]))
        out = (batch, *(int(size or 0) for size in program.output.shape[1:]))
        dtype = getattr(torch, program.input.dtype)
        size = torch.tensor([], dtype=dtype).element_size() * (int(np.prod(shape)) + int(np.prod(out)))
        sets = min(MOST_SETS, max(2, -(-ROTATED_BYTES // size)))
        self.inputs = [torch.randn(shape, device="cuda").to(dtype) for _ in range(sets)]
        self.outputs = [torch.empty(out, dtype=dtype, device="cuda") for _ in range(sets)]
        self._weights = {name: torch.from_numpy(np.ascontiguousarray(w)).cuda() for name, w in layer.weights.items()}
        self._ready: dict[Any, tuple[Any, ...]] = {}

    def _tensors(self, dtype: Any) -> tuple[Any, ...]:
        """Depthwise and pointwise weights and bias as convolutions take them, channels last."""
        if dtype not in self._ready:
            form, last = self.form, self.torch.channels_last
            kernel = self._weights[form.depthwise.weight]
            kh, kw = form.depthwise.kernel_size
            depthwise = kernel.reshape(kh, kw, 1, -1).permute(3, 2, 0, 1).to(dtype).contiguous(memory_format=last)
            pointwise = None
            if form.pointwise is not None:
                matrix = self._weights[form.pointwise.weight].reshape(form.depthwise_channels, -1)
                pointwise = matrix.t()[:, :, None, None].to(dtype).contiguous(memory_format=last)
            bias = self._weights[form.final.bias].to(dtype) if form.final.bias else None
            self._ready[dtype] = depthwise, pointwise, bias
        return self._ready[dtype]

    def peer(self, x: Any, dtype: Any) -> Any:
        """The layer's output for NHWC (or NWC) ``x``, in its layout."""
        torch, form, stage = self.torch, self.form, self.form.depthwise
        depthwise, pointwise, bias = self._tensors(dtype)
        y = (x.unsqueeze(1) if x.dim() == 3 else x).permute(0, 3, 1, 2)
        before, after = form.pad_before, form.pad_after
        padding = tuple(min(pair) for pair in zip(before, after, strict=True))
        if before != after:
            y = torch.nn.functional.pad(y, (before[1], after[1], before[0], after[0]))
            padding = (0, 0)
        y = torch.conv2d(y, depthwise, bias if pointwise is None else None, stage.strides, padding, stage.dilation_rate,
                         form.channels)  # fmt: skip
        if pointwise is not None:
            y = torch.conv2d(y, pointwise, bias)
        if form.final.activation is not None:
            params = dict(form.final.activation.params)
            y = y.clamp_(0, params["max_value"]) if params["max_value"] != float("inf") else y.relu_()
        y = y.permute(0, 2, 3, 1)
        return y.squeeze(1) if x.dim() == 3 else y


def read(case: Case) -> tuple[ImportedLayer, Form, dict[str, Any]]:
    """The layer with its drawn weights, its form and the weights that kernels read."""
    layer = read_layer(case["source"], input_shape=(None, *case["shape"]), keras_version=case["keras_version"])
    canonical, folded = fold_scale_shift(canonicalize(layer.program), layer.weights)
    form = read_form(canonicalize(canonical), {name: array.shape for name, array in folded.items()})
    return layer, replace(form, precision="tf32" if case["multiplied"] == "tf32" else "float32"), folded


def spec(edge: IrTensorSpec) -> TensorSpec:
    """An edge of the program as the loader knows it."""
    narrow = edge.dtype == "bfloat16"
    return TensorSpec(edge.shape, np.dtype("float32" if narrow else edge.dtype), narrow)


def error(found: Any, reference: Any) -> float:
    off = float(np.linalg.norm(found.astype(np.float64) - reference) / np.linalg.norm(reference))
    return off if np.isfinite(off) else float("inf")


def floor(form: Form, dtype: str, batch: int) -> float:
    """Seconds below which no version can be: compulsory traffic or arithmetic, whichever is longer (H200)."""
    item = 4 if dtype in ("float32", "tf32") else 2
    pixels = form.out_height * form.out_width
    moved = form.height * form.width * form.channels + pixels * form.out_channels
    weights = form.depthwise_channels * (form.taps + (form.out_channels if form.pointwise else 0))
    depthwise = 2 * pixels * form.depthwise_channels * form.taps * batch / 67e12
    product = 2 * pixels * form.depthwise_channels * form.out_channels * batch if form.pointwise else 0
    rate = {"float32": 67e12, "tf32": 494e12}.get(dtype, 790e12)
    return max((batch * moved + weights) * item / 4.3e12, depthwise + product / rate)


def print_row(row: dict[str, Any]) -> None:
    times = [seconds for seconds in row["builds"] if seconds is not None]
    best = min(times) if times else float("nan")
    peers = {name: round(seconds * 1e6, 2) for name, seconds in row["peers"].items()}
    index = row["builds"].index(best) if times else None
    ours = (row["ours"] or float("nan")) * 1e6
    wrong = "" if all(row["right"]) else f"WRONG {row['right']}"
    print(
        f"{row['layer']:10s} {row['dtype']:8s} {row['batch']:4d} ours {ours:8.2f}",
        f"best {best * 1e6:8.2f} (build {index}) floor {row['floor'] * 1e6:7.2f} {peers} {wrong}",
        flush=True,
    )


if __name__ == "__main__":
    main()
