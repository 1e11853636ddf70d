"""The inner loops as designed: as many multiply-adds as the register tile has, and no accumulator in memory.

Times are noise on a shared machine; the assembly is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.record import Schedule
from sepcompile.targets import get_target
from tests.compile.cases import read

LAYERS = {
    "28x28x256-256": ("SeparableConv2D", {"filters": 256, "kernel_size": 3, "padding": "same"}, (None, 28, 28, 256)),
    "56x56x128-128": ("SeparableConv2D", {"filters": 128, "kernel_size": 3, "padding": "same"}, (None, 56, 56, 128)),
    "7x7x1024-1024": ("SeparableConv2D", {"filters": 1024, "kernel_size": 3, "padding": "same"}, (None, 7, 7, 1024)),
    "400x256-256-k33": ("SeparableConv1D", {"filters": 256, "kernel_size": 33, "padding": "same"}, (None, 400, 256)),
    "14x14x360-360": ("SeparableConv2D", {"filters": 360, "kernel_size": 3, "padding": "same"}, (None, 14, 14, 360)),
}


@dataclass(frozen=True)
class Loop:
    """A loop without another inside: its multiply-adds, references to the stack, and vector stores."""

    multiply_adds: int
    stack: int
    stores: int


def innermost_loops(assembly: str) -> list[Loop]:
    """From a label to the jump back to it, where no other backward jump lies between."""
    lines = [line for line in assembly.splitlines() if not re.match(r"\s*(\.loc|\.cfi|\.Ltmp)", line)]
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if line.startswith(".LBB")}
    jumps = []
    for number, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.LBB\w+)", line)
        if jump and labels.get(jump[1], number) < number:
            jumps.append((labels[jump[1]], number))
    inner = [(a, b) for a, b in jumps if not any((a, b) != (c, d) and a <= c and d <= b for c, d in jumps)]
    return [_describe(lines[a : b + 1]) for a, b in inner]


def _describe(body: list[str]) -> Loop:
    return Loop(
        multiply_adds=sum(bool(re.search(r"\sv?fmadd|\svfmadd|\smulps", line)) for line in body),
        stack=sum("(%rsp" in line for line in body),
        stores=sum(bool(re.search(r"\sv?mov[ua]ps\s+%[xyz]mm\d+, .*\(", line)) for line in body),
    )


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", LAYERS)
def test_pointwise_loop_keeps_its_accumulators_in_registers(name: str, target: str) -> None:
    layer = read(*LAYERS[name], keras_version="3.15")
    compiled = compile_variant(
        layer.program, layer.weights, get_target(target), symbol="layer", worker=shared_worker(), texts=True
    )
    record = Schedule.from_json(compiled.schedule)
    designed = record.tile_pixels * record.tile_vectors * record.k_unroll
    loops = innermost_loops(compiled.assembly)
    # LLVM may unroll a short loop once more.
    found = [loop for loop in loops if loop.multiply_adds and loop.multiply_adds % designed == 0]
    assert found, f"no loop of {designed} multiply-adds among {loops}"
    assert all(loop.stack == 0 and loop.stores == 0 for loop in found), found


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("kernel", [(3, 3), (64, 1)])
@pytest.mark.parametrize("multiplier", [2, 4])
def test_depth_multiplier_repeats_lanes_of_a_vector(multiplier: int, kernel: tuple[int, int], target: str) -> None:
    """Never lane by lane: a load of single elements, or their insertion, would be the loop's whole time."""
    config = {"kernel_size": kernel, "depth_multiplier": multiplier, "padding": "valid"}
    layer = read("DepthwiseConv2D", config, (None, 64, 56, 16), keras_version="3.15")
    compiled = compile_variant(
        layer.program, layer.weights, get_target(target), symbol="layer", worker=shared_worker(), texts=True
    )
    assert not Schedule.from_json(compiled.schedule).staged
    lane_by_lane = re.findall(r"\s(v?insertps|v?pinsrd|v?gatherdps|v?pgatherdd)\s", compiled.assembly)
    assert not lane_by_lane, lane_by_lane


@pytest.mark.parametrize(("size", "expected"), [(147, True), (28, False)])
def test_large_images_are_prefetched(size: int, expected: bool) -> None:
    layer = read("SeparableConv2D", {"filters": 128, "kernel_size": 3}, (None, size, size, 64), keras_version="3.15")
    compiled = compile_variant(
        layer.program, layer.weights, get_target("x86-64-v4"), symbol="layer", worker=shared_worker(), texts=True
    )
    assert Schedule.from_json(compiled.schedule).prefetch is expected
    asked = [loop for loop in re.split(r"\n\.LBB", compiled.assembly) if "prefetch" in loop]
    assert bool(asked) is expected
    assert all("fmadd" in loop for loop in asked), "requests belong between the product's multiply-adds"
