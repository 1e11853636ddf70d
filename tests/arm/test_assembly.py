"""The inner loops on Arm as designed: multiply-adds by lane, accumulators in registers, paired loads."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from sepcompile.codegen.variant import compile_variant
from sepcompile.codegen.worker import shared_worker
from sepcompile.compute.record import Schedule
from sepcompile.targets import get_target
from tests.compile.cases import read
from tests.compile.test_assembly import LAYERS

# What LLVM stores of a vector register on the stack in 32 bits; an address of its own holds the place.
SPILL = r"\tvst(mia\t|r\t.*\[sp)"


@dataclass(frozen=True)
class Loop:
    """A loop without another inside: all its instructions, and some of them."""

    instructions: int
    multiply_adds: int
    by_lane: int
    vector_stores: int
    stack: int


def innermost_loops(assembly: str) -> list[Loop]:
    """The loops that have none inside."""
    return [_describe(body) for body in bodies(assembly)]


def multiplies(body: list[str]) -> bool:
    """Whether a loop does a stage's work, four products or more."""
    return sum(bool(re.match(r"\tfmla\tv|\tv(fma|mul)\.f32\tq", line)) for line in body) >= 4


def bodies(assembly: str) -> list[list[str]]:
    """From a label to the jump back to it, where no other backward jump lies between."""
    lines = [line for line in assembly.splitlines() if re.match(r"\.LBB|\t[a-z]", line)]
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if line.startswith(".LBB")}
    jumps = []
    for number, line in enumerate(lines):
        jump = re.match(r"\t(?:b\.?\w*|cbn?z|tbn?z)\t.*?(\.LBB\w+)", line)
        if jump and labels.get(jump[1], number) < number:
            jumps.append((labels[jump[1]], number))
    inner = [(a, b) for a, b in jumps if not any((a, b) != (c, d) and a <= c and d <= b for c, d in jumps)]
    return [[line for line in lines[a : b + 1] if line.startswith("\t")] for a, b in inner]


def _describe(body: list[str]) -> Loop:
    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, line)) for line in body)

    return Loop(
        instructions=len(body),
        # In 32 bits without a fused multiply-add each product is one instruction and its sum another.
        multiply_adds=count(r"\tfmla\tv|\tv(fma|mul)\.f32\tq"),
        by_lane=count(r"\tfmla\tv.*\.s\[[0-3]\]|\tvmul\.f32\tq.*d\d+\[[01]\]"),
        vector_stores=count(rf"\tst[rpu]+\tq|\tvst1|{SPILL}"),
        stack=count(rf"\t(ld|st)[rpu]+\tq.*\[sp|{SPILL.replace('st', '(ld|st)')}"),
    )


def compiled_loops(name: str, target: str) -> tuple[Schedule, list[Loop]]:
    """The schedule chosen for a layer, and the innermost loops of its kernels."""
    layer = read(*LAYERS[name], keras_version="3.15")
    compiled = compile_variant(
        layer.program, layer.weights, get_target(target), symbol="layer", worker=shared_worker(), texts=True
    )
    return Schedule.from_json(compiled.schedule), innermost_loops(compiled.assembly)


@pytest.mark.parametrize("target", ["cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1"])
@pytest.mark.parametrize("name", LAYERS)
def test_pointwise_loop_multiplies_by_lanes_and_stores_nothing(name: str, target: str) -> None:
    record, loops = compiled_loops(name, target)
    designed = record.tile_pixels * record.tile_vectors * record.k_unroll
    found = [loop for loop in loops if loop.multiply_adds == loop.by_lane == designed]
    assert found, f"no loop of {designed} multiply-adds by lane among {loops}"
    assert all(loop.stack == 0 and loop.vector_stores == 0 for loop in found), found
    # Loads and the loop's own four: with two load units or one, they hide behind the multiply-adds.
    vectors = record.k_unroll // 4 * record.tile_pixels + record.k_unroll * record.tile_vectors
    assert all(loop.instructions <= designed + vectors + 6 for loop in found), found


@pytest.mark.parametrize("target", ["cortex-a72", "cortex-a76"])
@pytest.mark.parametrize("name", ["28x28x256-256", "56x56x128-128", "7x7x1024-1024"])
def test_depthwise_loops_keep_their_sums_in_registers(name: str, target: str) -> None:
    record, loops = compiled_loops(name, target)
    sums = record.tile_columns * record.depthwise_lanes // 4
    found = [loop for loop in loops if loop.multiply_adds >= 8 * sums and not loop.by_lane]
    assert found, f"no loop of {9 * sums} multiply-adds among {loops}"
    assert all(loop.stack == 0 for loop in found), found


@pytest.mark.parametrize("target", ["cortex-a7", "armv7-neon"])
@pytest.mark.parametrize("name", LAYERS)
def test_sixteen_registers_hold_the_pointwise_tile(name: str, target: str) -> None:
    record, loops = compiled_loops(name, target)
    designed = record.tile_pixels * record.tile_vectors * record.k_unroll
    found = [loop for loop in loops if loop.multiply_adds == designed and loop.vector_stores == 0]
    assert found, f"no loop of {designed} multiply-adds without a store among {loops}"
    assert all(loop.stack == 0 for loop in found), found
    # Beside them: loads, and a lane repeated for each vector of pixels, or a sum for each product; the loop's own.
    vectors = record.tile_pixels + record.k_unroll * record.tile_vectors
    repeats = record.tile_pixels * record.k_unroll if target == "cortex-a7" else designed
    assert all(loop.instructions <= designed + repeats + vectors + record.tile_pixels + 6 for loop in found), found


@pytest.mark.parametrize("target", ["cortex-a7", "armv7-neon"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7, 11, 33])
def test_sixteen_registers_hold_the_depthwise_sums(kernel: int, strides: int, target: str) -> None:
    config = {"filters": 64, "kernel_size": kernel, "strides": strides, "padding": "same"}
    rank = 1 if kernel > 7 else 2
    layer = read(f"SeparableConv{rank}D", config, (None, *(28,) * rank, 64), keras_version="3.15")
    compiled = compile_variant(
        layer.program, layer.weights, get_target(target), symbol="layer", worker=shared_worker(), texts=True
    )
    found = [loop for loop in innermost_loops(compiled.assembly) if loop.multiply_adds > loop.by_lane]
    assert found
    stores = [line for body in bodies(compiled.assembly) for line in body if re.match(SPILL, line) and multiplies(body)]
    assert not stores, stores
