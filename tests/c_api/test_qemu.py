"""Cortex-M layers on qemu's boards: a program with its own start, constants in flash, everything else in RAM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sepcompile.targets import get_target
from tests.c_api.support import library, run_zig, sections
from tests.compile.cases import expected, image, read, with_integers

QEMU = "qemu-system-arm"
pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU} (package {QEMU})")
BOARDS = {"cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500"}
TRIPLE = "thumb-freestanding-eabihf"

# Semihosting: an operation in r0 and its argument in r1; the debugger, here qemu, answers at `bkpt 0xab`.
PROGRAM = """
#include <stddef.h>
#include "conv1.h"
extern unsigned stack_top, data_start, data_end, data_load, bss_start, bss_end;
extern const float input[];
static float y[IMAGES * CONV1_Y_SIZE];
CONV1_ALIGNED static unsigned char arena[CONV1_ARENA_BYTES];

static int semihost(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
static void leave(int failed) {
    semihost(0x18, (const void *)(size_t)(failed ? 0x20023 : 0x20026));
    for (;;) {}
}
static void fault(void) { leave(1); }
static void reset(void) {
    conv1_layer layer;
    *(volatile unsigned *)0xE000ED88 |= 0xFu << 20; /* the FPU is off after a reset */
    __asm__ volatile("dsb\\nisb");
    for (unsigned *from = &data_load, *to = &data_start; to < &data_end;) *to++ = *from++;
    for (volatile unsigned *to = &bss_start; to < &bss_end;) *to++ = 0;
    if (conv1_init(&layer, arena, sizeof arena) != 0 || conv1_run(&layer, input, y, IMAGES) != 0) leave(2);
    size_t console[3] = {(size_t)":tt", 4, 3}, block[3] = {0, (size_t)y, sizeof y};
    block[0] = (size_t)semihost(0x01, console);
    leave(semihost(0x05, block));
}
__attribute__((section(".vectors"), used)) const void *const vectors[16] = {
    &stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault};
"""
INPUT = """
__asm__(".section .rodata.input,\\"a\\",%progbits\\n"
        ".balign 8\\n.globl input\\ninput:\\n.incbin \\"input.bin\\"\\n");
"""
SCRIPT = """
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 4M  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
 .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(8); } > FLASH
 .data : { data_start = .; *(.data*) . = ALIGN(8); data_end = .; } > RAM AT> FLASH
 data_load = LOADADDR(.data);
 .bss (NOLOAD) : { bss_start = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; } > RAM
 stack_top = bss_end + 2048;
}
"""
LAYERS = {
    "ds_cnn": ({"filters": 64, "kernel_size": 3, "padding": "same", "activation": "relu"}, (25, 5, 64)),
    "strides": ({"filters": 24, "kernel_size": 5, "strides": 2, "padding": "same", "activation": "relu"}, (17, 15, 9)),
}


@pytest.mark.parametrize("target", BOARDS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_program_on_a_board(name: str, target: str, tmp_path: Path) -> None:
    import sepcompile

    config, shape = LAYERS[name]
    layer = with_integers(read("SeparableConv2D", {**config, "name": "conv1"}, (None, *shape)))
    x = np.concatenate([image(layer, integers=True, seed=seed) for seed in (1, 2)])
    reference, _ = expected(layer, x)
    source = {"class_name": "SeparableConv2D", "config": {**config, "name": "conv1"}}
    artifact = sepcompile.compile(source, (None, *shape), target, layer.weights, output=tmp_path / "conv1")
    program = link(tmp_path, artifact.path, target, x)
    command = [QEMU, "-M", BOARDS[target], "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(program)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(reference.shape), reference)
    # In RAM lie the output and the arena alone: the weights, as all constants, stayed in flash.
    static = library(layer, get_target(target))
    assert sections(program.read_bytes())["data"] <= x.shape[0] * static.output + static.arena + 32


def link(folder: Path, artifact: Path, target: str, x: np.ndarray) -> Path:
    """The program for a board, with its input as a constant."""
    (folder / "program.c").write_text(PROGRAM)
    (folder / "input.c").write_text(INPUT)
    (folder / "input.bin").write_bytes(x.tobytes())
    (folder / "board.ld").write_text(SCRIPT)
    flags = ["-std=c11", "-O1", "-g0", "-ffreestanding", "-fno-pic", "-fno-sanitize=all", "-fno-stack-protector"]
    flags += [f"-mcpu={target.replace('-', '_')}", f"-DIMAGES={x.shape[0]}", f"-I{artifact / 'include'}"]
    for unit in ("program", "input"):
        run_zig(folder, "cc", "-target", TRIPLE, "-c", *flags, f"{unit}.c", "-o", f"{unit}.o")
    archive = artifact / target / "libconv1.a"
    run_zig(folder, "ld.lld", "-T", "board.ld", "--gc-sections", "-o", "program.elf", "program.o", "input.o", archive)
    return folder / "program.elf"
