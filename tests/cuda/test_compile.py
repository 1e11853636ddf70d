"""Images for GPUs, made without one: they fit the GPU they are for, and the manifest says how to launch them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sepcompile
from sepcompile.bench.suites import load
from sepcompile.codegen import cuda_lower, nvrtc
from sepcompile.codegen.cubin import Resources, resources
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.errors import CompileError, ScheduleError, TargetError
from sepcompile.runtime.cuda_manifest import ImageEntry, choose_image
from sepcompile.schedule import cuda
from sepcompile.targets import get_target, list_targets
from tests.compile.cases import form_of
from tests.cuda.cases import compiled, cuda_form, imported

ARCHES = ("sm_75", "sm_80", "sm_87", "sm_90")
OTHERS = ("sm_86", "sm_89", "sm_100", "sm_120", "compute_75")
SECONDS = 10.0  # of a processor, for one layer and one generation
# What a multiprocessor has at once: registers, bytes of shared memory, threads.
REGISTERS = 65536
SHARED = {
    "sm_75": 65536, "sm_80": 166912, "sm_86": 102400, "sm_87": 166912, "sm_89": 102400, "sm_90": 232448,
    "sm_100": 232448, "sm_120": 102400,
}  # fmt: skip
THREADS = {
    "sm_75": 1024, "sm_80": 2048, "sm_86": 1536, "sm_87": 1536, "sm_89": 1536, "sm_90": 2048, "sm_100": 2048,
    "sm_120": 1536,
}  # fmt: skip
QUICK = ("mnv1_b1", "mnv1_b7", "qn_33", "dw2_mn_s2")  # fused, split, one row, depthwise only
EVERYWHERE = {layer.name for layer in load("dev")} - set(QUICK)  # compiled for all generations


def _layers() -> Iterator[Any]:
    """The layers of both suites, in all types; most of it takes minutes."""
    for layer in (*load("dev"), *load("held-out")):
        for multiplied in ("float32", "float16", "bfloat16", "tf32"):
            if multiplied == "tf32" and "Separable" not in layer.class_name:
                continue
            marks = () if layer.name in QUICK else (pytest.mark.slow,)
            yield pytest.param(layer, multiplied, id=f"{layer.name}-{multiplied}", marks=marks)


@pytest.mark.parametrize(("layer", "multiplied"), list(_layers()))
def test_suite_layers_fit_every_generation(layer: Any, multiplied: str) -> None:
    """No spilled registers, resources within limits, and the occupancy that the schedule's threads were chosen for."""
    config = {**layer.config, "dtype": "float32" if multiplied == "tf32" else multiplied}
    read = imported(layer.class_name, config, layer.input_shape[1:])
    form = cuda_form(read, "tf32" if multiplied == "tf32" else "float32")
    gpu = get_target("cuda").gpu
    assert gpu is not None
    arches = (*ARCHES, *OTHERS) if layer.name in EVERYWHERE else ARCHES
    start = time.process_time()
    built = cuda_lower.compile_form(form, cuda.choose(form, gpu, None), arches, symbol="layer")
    seconds = (time.process_time() - start) / len(arches)
    assert seconds < SECONDS
    for arch, image in built.images:
        if arch.startswith("compute_"):
            assert f".target {arch.replace('compute', 'sm')}".encode() in image
            continue
        found = resources(image)
        assert set(found) == {step.symbol for step in built.plan.steps}
        for step, launch in zip(built.plan.steps, built.launches, strict=True):
            needs, threads = found[step.symbol], launch.block[0] * launch.block[1] * launch.block[2]
            assert needs.stack_bytes == 0
            assert 16 <= needs.registers <= 255
            assert needs.shared_bytes <= min(SHARED[arch], 49 * 1024)
            assert threads <= 1024
            assert launch.grid_y <= 65535
            blocks = _blocks(needs, threads, arch)
            assert blocks >= 1
            part = blocks * threads / THREADS[arch]
            print(f"{layer.name} {multiplied} {arch}: {needs}, {blocks} blocks, {part:.0%} of threads, {seconds:.1f} s")
            assert part >= 0.1


def _blocks(needs: Resources, threads: int, arch: str) -> int:
    """Blocks of a kernel that a multiprocessor holds at once."""
    warps = -(-threads // 32)
    registers = -(-needs.registers // 8) * 8 * 32 * warps
    return min(THREADS[arch] // (32 * warps), REGISTERS // registers, SHARED[arch] // (needs.shared_bytes + 1024))


def test_tvms_own_intrinsics_are_not_imported() -> None:
    """Their package parses its 248 functions when it is imported, which takes half a minute of a processor."""
    code = "import sys, sepcompile.codegen.cuda_lower; sys.exit('tvm.s_tir.tensor_intrin' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ptx_is_text_and_cubins_say_what_they_need() -> None:
    source = 'extern "C" __global__ void k(float* x) { x[threadIdx.x] = 1.0f; }'
    assert b".target sm_75" in nvrtc.compile_image(source, "compute_75")
    for arch in (*ARCHES, "sm_120"):
        assert resources(nvrtc.compile_image(source, arch))["k"].stack_bytes == 0


def test_spilled_registers_are_seen() -> None:
    body = "float a[400]; for (int i = 0; i < 400; ++i) a[i] = x[i] * x[i + n]; x[0] = a[n] + a[n + 1];"
    source = f'extern "C" __global__ void k(float* x, int n) {{ {body} }}'
    assert resources(nvrtc.compile_image(source, "sm_90"))["k"].stack_bytes >= 1600


def test_wrong_code_is_a_compile_error() -> None:
    with pytest.raises(CompileError, match="sm_90"):
        nvrtc.compile_image("this is no C", "sm_90")


def test_largest_batch_keeps_indices_in_int32() -> None:
    layer = imported("SeparableConv2D", {"filters": 64, "kernel_size": 3, "padding": "same"}, (100, 100, 32))
    (launch,) = {launch.most_batch for launch in compiled(layer, None).launches}
    assert launch * 100 * 100 * 64 < 2**31 <= (launch + 2) * 100 * 100 * 64


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"taps": 2}, "taps"),
        ({"window": 3}, "window"),
        ({"lanes": 8}, "lanes"),
        ({"threads_x": 0}, "threads_x"),
        ({"tile_filters": 1024}, "tile_filters"),
        ({"threads_x": 64, "threads_y": 32}, "1024"),
        ({"tensor": True}, "tensor"),
        ({"stages": 2}, "stages"),
    ],
)
def test_records_that_do_not_fit_are_refused(change: dict[str, Any], word: str) -> None:
    layer = imported("SeparableConv2D", {"filters": 64, "kernel_size": 3, "padding": "same"}, (14, 14, 32))
    record = next(r for r in cuda.candidates(form_of(layer)) if not r.split)
    with pytest.raises(ScheduleError, match=word):
        compiled(layer, dataclasses.replace(record, **change))


def test_records_of_other_families_are_refused() -> None:
    layer = {"class_name": "DepthwiseConv2D", "config": {"kernel_size": 3}}
    record = CudaSchedule(4, 8, 8, 8, 1, 4, 3)
    with pytest.raises(ScheduleError, match="GPU"):
        sepcompile.compile(layer, (None, 8, 8, 4), target="x86-64-v3", schedule=record, cache=False)  # type: ignore[arg-type]


def test_artifact_for_all_gpus(tmp_path: Path) -> None:
    layer = {"class_name": "SeparableConv2D", "config": {"filters": 10, "kernel_size": 3, "activation": "softmax"}}
    artifact = sepcompile.compile(layer, (None, 9, 8, 4), target=["cuda", "x86-64-v3"], output=tmp_path / "a")
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    host, gpu = manifest["variants"]
    assert (host["family"], gpu["family"]) == ("x86", "cuda")
    assert set(gpu["cuda"]["images"]) == set(get_target("cuda").images)
    assert len(gpu["cuda"]["launches"]) == len(gpu["plan"]["steps"]) == 2
    assert all(path in manifest["files"] for path in gpu["cuda"]["images"].values())
    assert sepcompile.verify(artifact.path).variants[1].target == "cuda"
    alone = sepcompile.compile(layer, (None, 9, 8, 4), target="cuda-sm_90", output=tmp_path / "b")
    assert not (alone.path / "include").exists()


def test_images_for_gpus() -> None:
    images = tuple(ImageEntry(arch, arch) for arch in get_target("cuda").images)

    def chosen(major: int, minor: int) -> str | None:
        image = choose_image(images, (major, minor))
        return image and image.arch

    assert chosen(7, 0) is None
    assert [chosen(*c) for c in ((7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0))] == [
        "sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120",
    ]  # fmt: skip
    assert chosen(12, 1) == "sm_120"
    assert chosen(10, 1) == "compute_75"  # embedded: cubins of the others do not run on it
    assert chosen(13, 0) == "compute_75"


def test_target_files_are_checked(tmp_path: Path) -> None:
    gpus = [target for target in list_targets() if target.family == "cuda"]
    assert len(gpus) == 9
    assert all(target.gpu is not None and target.images for target in gpus)
    text = (Path("targets") / "cuda-sm_90.toml").read_text()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace('"sm_90"', '"90"'))
    with pytest.raises(TargetError, match="images"):
        get_target(wrong)
    wrong.write_text(text.replace("multiprocessors = 132", "multiprocessors = 0"))
    with pytest.raises(TargetError, match="multiprocessors"):
        get_target(wrong)
