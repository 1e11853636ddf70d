"""Several layers in one program, as someone new to the C API writes it: all kinds, odd names, strict compilers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.targets import get_target
from tests.arm.test_loader import _keras_weights
from tests.arm.unicorn_run import Emulator, core_of
from tests.c_api.support import executable, run_zig, shared
from tests.compile.cases import assert_close, expected, read, runnable_targets, with_integers

X86 = runnable_targets()[0].name
OTHERS = ["aarch64", "riscv64", "cortex-m4"]
# By the layers' names; "features" is also a header that every one of glibc's includes, "for" a word of C.
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int | None, ...]]] = {
    "features": ("SeparableConv2D", {"filters": 12, "kernel_size": 3, "activation": "softmax"}, (None, 6, 7, 10)),
    "first": ("DepthwiseConv2D", {"kernel_size": 3, "data_format": "channels_first"}, (None, 7, 9, 10)),
    "causal": ("SeparableConv1D", {"filters": 8, "kernel_size": 5, "padding": "causal"}, (2, 30, 6)),
    "for": ("DepthwiseConv2D", {"kernel_size": (5, 1), "depth_multiplier": 3}, (None, 12, 4, 5)),
    "Größe 1": ("SeparableConv2D", {"filters": 9, "kernel_size": 2, "depth_multiplier": 2}, (2, 5, 6, 4)),
}
SYMBOLS = {"features": "layer_features", "Größe 1": "Gr__e_1"}
IMAGES = 2
PROGRAM = """
#include <limits.h>
#include <stdint.h>
%(includes)s
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ARENA %(arena)s
#if ARENA > INT_MAX
#error "the arena's size is not known to the preprocessor"
#endif
FIRST_ALIGNED static unsigned char arena[ARENA];
static float x[2048];
float y[5][2048];

static void fill(size_t count) {
    size_t i;
    for (i = 0; i < count; i++) x[i] = (float)((int)(i * 7 %% 13) - 6);
}

int run(void);
int run(void) {
%(body)s
    return 0;
}
"""
LAYER = """
    {{
        const int shape[] = {M}_X_SHAPE;
        {s}_layer layer;
        if (sizeof shape / sizeof shape[0] != {M}_X_RANK || {M}_X_BYTES != {M}_X_SIZE * sizeof(float)) return {n}1;
        if ({s}_init(&layer, arena, sizeof arena) != 0) return {n}2;
        fill({b} * {M}_X_SIZE);
        if ({s}_run(&layer, x, y[{i}]{batch}) != 0) return {n}3;
        {s}_free(&layer);
    }}"""


def _program() -> str:
    arena, body = "1", ""
    symbols = [SYMBOLS.get(name, name) for name in LAYERS]
    for number, (symbol, (_, _, shape)) in enumerate(zip(symbols, LAYERS.values(), strict=True)):
        macro, fixed = symbol.upper(), shape[0] is not None
        arena = f"MAX({macro}_ARENA_BYTES, {arena})"
        images, batch = (f"{macro}_BATCH", "") if fixed else (str(IMAGES), f", {IMAGES}")
        body += LAYER.format(M=macro, s=symbol, n=number + 1, i=number, b=images, batch=batch)
    return PROGRAM % {"includes": "".join(f'#include "{s}.h"\n' for s in symbols), "arena": arena, "body": body}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of all layers, and the program."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "program.c").write_text(_program(), encoding="utf-8")
    for name, layer in _layers().items():
        kind, config, shape = LAYERS[name]
        sepcompile.compile(
            {"class_name": kind, "config": {**config, "name": name}}, shape, [X86, *OTHERS], _keras_weights(layer),
            _version(config), output=folder / SYMBOLS.get(name, name), emit="c-api",
        )  # fmt: skip
    return folder


def _version(config: dict[str, Any]) -> str:
    return "2" if config.get("padding") == "causal" else "3.15"


def _layers() -> dict[str, Any]:
    return {
        name: with_integers(read(kind, {**config, "name": name}, shape, keras_version=_version(config)))
        for name, (kind, config, shape) in LAYERS.items()
    }


def _libraries(folder: Path, target: str) -> list[Path]:
    return sorted(folder.glob(f"*/{target}/lib*.a"))


def _includes(folder: Path) -> list[str]:
    return [f"-I{path}" for path in sorted(folder.glob("*/include"))]


def _check(results: np.ndarray) -> None:
    """What the program left in ``y``, layer by layer."""
    for got, layer in zip(results, _layers().values(), strict=True):
        shape = (IMAGES, *layer.program.input.shape[1:])
        x = (np.arange(np.prod(shape)) * 7 % 13 - 6).astype(np.float32).reshape(shape)
        reference, bound = expected(layer, x)
        assert_close(got[: reference.size].reshape(reference.shape), reference, bound)


STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion"]
FREE = ["-ffreestanding", "-fno-sanitize=all", "-fno-stack-protector", "-g0", "-O1"]


@pytest.mark.parametrize("target", [X86, *OTHERS])
def test_layers_of_all_kinds_in_one_program(target: str, folder: Path, tmp_path: Path) -> None:
    chosen = get_target(target)
    cpu = ["-mcpu=cortex_m4+vfp4d16sp", "-fno-pic"] if chosen.bare else ["-fPIC"]
    flags = [*STRICT, *FREE, "-std=c99", *cpu, *_includes(folder)]
    run_zig(tmp_path, "cc", "-target", chosen.triple, "-c", *flags, folder / "program.c", "-o", "program.o")
    parts = [tmp_path / "program.o", *_libraries(folder, target)]
    assert len(parts) == 1 + len(LAYERS)
    if target == X86:
        library = ctypes.CDLL(str(shared(tmp_path, parts)))
        assert library.run() == 0
        content = bytes((ctypes.c_char * (5 * 8192)).in_dll(library, "y"))
    else:
        emulator = Emulator(core_of(chosen), executable(tmp_path, parts, ["run", "y"]))
        assert emulator.call("run") == 0
        content = bytes(emulator.machine.mem_read(emulator._symbols["y"], 5 * 8192))
    _check(np.frombuffer(content, np.float32).reshape(5, -1))


@pytest.mark.parametrize(
    ("compiler", "standard"),
    [("gcc", "c99"), ("gcc", "c11"), ("gcc", "c2x"), ("g++", "c++98"), ("g++", "c++11"), ("g++", "c++20")],
)
def test_headers_please_strict_compilers(compiler: str, standard: str, folder: Path, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    language = ["-x", "c++"] if compiler == "g++" else []
    command = [compiler, f"-std={standard}", *STRICT, *_includes(folder), *language, "-c", folder / "program.c"]
    subprocess.run([*command, "-o", tmp_path / "program.o"], check=True)
