"""C programs around static libraries: the example, threads of the program's own, symbols, refused arguments."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.runtime import cpu
from sepcompile.targets import get_target
from tests.arm.unicorn_run import Emulator, core_of
from tests.c_api.support import Program, executable, library, member, run_zig, sections, shared, symbols
from tests.compile.cases import assert_close, expected, image, read, runnable_targets, with_integers
from tests.compile.test_kernels import K3

CONFIG = {"name": "conv1", "filters": 24, "kernel_size": 3, "padding": "same", "activation": "relu"}
SHAPE = (None, 10, 11, 20)
SOURCE = {"class_name": "SeparableConv2D", "config": CONFIG}
X86 = runnable_targets()[0].name
OTHERS = ["cortex-a72", "armv7-neon", "riscv64"]
# Keeps what the example prints, so that it runs without a libc.
STDIO = "int printf(const char *format, ...);\n"
PRINTED = """
double printed[64];
int count;
int printf(const char *format, ...) {
    __builtin_va_list values;
    (void)format;
    __builtin_va_start(values, format);
    printed[count++] = __builtin_va_arg(values, double);
    __builtin_va_end(values);
    return 0;
}
"""


@pytest.fixture(scope="module")
def layer() -> Any:
    return with_integers(read("SeparableConv2D", CONFIG, SHAPE))


@pytest.fixture(scope="module")
def artifact(layer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    targets = [X86, *OTHERS, "cortex-m4"]
    path = tmp_path_factory.mktemp("c_api") / "conv1"
    return sepcompile.compile(SOURCE, SHAPE, targets, layer.weights, output=path, emit="c-api").path


@pytest.fixture(scope="module")
def ones(layer: Any) -> np.ndarray:
    """What the example prints: the first outputs for an input of ones."""
    return expected(layer, np.ones((1, *SHAPE[1:]), np.float32))[0].reshape(-1)[:8]


def objects(folder: Path, artifact: Path, triple: str) -> list[Path]:
    """The example and its printf as objects for ``triple``."""
    (folder / "stdio.h").write_text(STDIO)
    (folder / "printed.c").write_text(PRINTED)
    found = []
    for source in (artifact / "src" / "example.c", folder / "printed.c"):
        flags = ["-std=c11", "-O1", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all"]
        flags += ["-fno-stack-protector", "-ffreestanding"]
        output = folder / f"{source.stem}.o"
        includes = [f"-I{artifact / 'include'}", f"-I{folder}"]
        run_zig(folder, "cc", "-target", triple, "-c", *flags, *includes, source, "-o", output)
        found.append(output)
    return found


# ---- the example ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", OTHERS)
def test_the_example_runs_on_other_machines(target: str, artifact: Path, ones: np.ndarray, tmp_path: Path) -> None:
    chosen = get_target(target)
    parts = [*objects(tmp_path, artifact, chosen.triple), artifact / target / "libconv1.a"]
    emulator = Emulator(core_of(chosen), executable(tmp_path, parts, ["main", "printed"]))
    assert emulator.call("main") == 0
    got = np.frombuffer(bytes(emulator.machine.mem_read(emulator._symbols["printed"], 64)), np.float64)
    np.testing.assert_array_equal(got, ones)


def test_the_example_runs_here(artifact: Path, ones: np.ndarray, tmp_path: Path) -> None:
    chosen = get_target(X86)
    program = shared(tmp_path, [*objects(tmp_path, artifact, chosen.triple), artifact / X86 / "libconv1.a"])
    # The addresses that its own linker chose are ctypes' to find; `main` would be Python's by name.
    code = (
        "import ctypes, sys; p = ctypes.CDLL(sys.argv[1]); assert p['main']() == 0;"
        "print(*(ctypes.c_double * 8).in_dll(p, 'printed'))"
    )
    done = subprocess.run([sys.executable, "-c", code, program], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float64), ones)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler called cc, with a libc")
def test_the_example_builds_with_the_machines_own_compiler(artifact: Path, ones: np.ndarray, tmp_path: Path) -> None:
    text = (artifact / "src" / "example.c").read_text()
    command = next(line.strip(" *") for line in text.splitlines() if "cc -I" in line).split(" -o ")[0].split()
    command[-1] = f"{X86}/libconv1.a"  # the comment has that of any of them
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", tmp_path / "example"]
    subprocess.run([*command, *flags], cwd=artifact, check=True)
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float64), ones)


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("cc") is None, reason="no cmake, or no C compiler")
def test_cmake_builds_the_example(artifact: Path, ones: np.ndarray, tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", artifact, "-B", tmp_path], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "conv1_example"], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float64), ones)
    assert sepcompile.verify(artifact).passed  # nothing was built into the artifact


@pytest.mark.slow  # zig builds a whole libc for it
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="no qemu-aarch64 (package qemu-user)")
def test_the_example_runs_as_an_arm_program_with_a_libc(artifact: Path, ones: np.ndarray, tmp_path: Path) -> None:
    parts = [artifact / "src" / "example.c", artifact / "cortex-a72" / "libconv1.a"]
    flags = ["-static", "-O1", f"-I{artifact / 'include'}", "-o", "example"]
    run_zig(tmp_path, "cc", "-target", "aarch64-linux-musl", *flags, *parts)
    command = ["qemu-aarch64", "-cpu", "cortex-a72", tmp_path / "example"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float64), ones)


@pytest.mark.parametrize("standard", ["c++98", "c++17"])
def test_the_header_is_also_cpp(standard: str, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "stdio.h").write_text(STDIO)
    flags = [f"-std={standard}", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-x", "c++"]
    source = tmp_path / "program.cpp"
    source.write_text((artifact / "src" / "example.c").read_text().replace("size_t i;", "unsigned long i;"))
    # Without C++'s own headers and without `zig cc`, which would first build a C++ library.
    for header in ("stddef.h", "stdint.h"):
        (tmp_path / header).write_text("typedef __SIZE_TYPE__ size_t;\ntypedef __INT32_TYPE__ int32_t;\n#pragma once\n")
    includes = [f"-I{tmp_path}", f"-I{artifact / 'include'}"]
    run_zig(tmp_path, "clang", "-target", "x86_64-linux-musl", "-nostdinc", *flags, *includes, source)


# ---- the library ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [X86, *OTHERS, "cortex-m4"])
def test_libraries_are_closed(target: str, artifact: Path) -> None:
    """Nothing but the API can be seen, everything bears the layer's name, and nothing is needed."""
    content = member((artifact / target / "libconv1.a").read_bytes())
    assert symbols(content, undefined=True) == {}
    found = symbols(content)
    seen = {name for name, visibility in found.items() if visibility == "STV_DEFAULT"}
    api = ("init", "run", "free", "arena_bytes", "steps", "tasks", "run_tasks")
    assert seen == {f"conv1_{name}" for name in api}
    assert all(name.startswith("conv1_") for name in found)
    assert sections(content)["data"] == 0


def test_the_manifest_says_what_a_library_takes(artifact: Path) -> None:
    header = (artifact / "include" / "conv1.h").read_text()
    for variant in sepcompile.inspect(artifact).variants:
        found = variant.c_api
        assert found is not None
        sizes = sections(member((artifact / found.library).read_bytes()))
        assert (found.code_bytes, found.constant_bytes, found.data_bytes) == tuple(sizes.values())
        assert found.flash_bytes == sum(sizes.values())
        assert found.ram_bytes == found.input_bytes + found.output_bytes + found.arena_bytes
        name = variant.target.upper().replace("-", "_")
        assert f"#define CONV1_ARENA_BYTES_{name} {found.arena_bytes}\n" in header


def test_a_program_with_its_own_memset_and_two_layers(layer: Any, tmp_path: Path) -> None:
    names = ("one", "two")
    for name in names:
        (tmp_path / f"{name}.a").write_bytes(library(layer, get_target(X86), name).archive)
    (tmp_path / "own.c").write_text("".join(f"int {name}(void) {{ return 7; }}\n" for name in ("memset", "memcpy")))
    flags = ["-c", "-ffreestanding", "-fno-builtin", "-fPIC", "-fno-sanitize=all", "own.c", "-o", "own.o"]
    run_zig(tmp_path, "cc", "-target", "x86_64-linux-musl", *flags)
    program = ctypes.CDLL(str(shared(tmp_path, [tmp_path / "one.a", tmp_path / "own.o", tmp_path / "two.a"])))
    assert program.memset() == 7 and program.one_steps() == program.two_steps() > 0


class Struct(ctypes.Structure):
    """``conv1_layer``."""

    _fields_ = (("arena", ctypes.c_void_p), ("threads", ctypes.c_int32))


class Native:
    """A static library of this machine, through ctypes."""

    def __init__(self, folder: Path, layer: Any, target: str) -> None:
        self.static = library(layer, get_target(target))
        (folder / "conv1.a").write_bytes(self.static.archive)
        self.functions = ctypes.CDLL(str(shared(folder, [folder / "conv1.a"])))
        self.functions.conv1_arena_bytes.restype = ctypes.c_size_t
        self.layer = Struct()

    def memory(self, threads: int) -> tuple[int, int]:
        """An aligned address and the bytes behind it."""
        nbytes = self.functions.conv1_arena_bytes(threads)
        self.buffer = ctypes.create_string_buffer(b"\xff" * (nbytes + 128), nbytes + 128)
        return -(-ctypes.addressof(self.buffer) // 128) * 128, nbytes

    def init(self, arena: int, nbytes: int) -> int:
        return int(self.functions.conv1_init(ctypes.byref(self.layer), ctypes.c_void_p(arena), ctypes.c_size_t(nbytes)))

    def call(self, function: str, x: np.ndarray, y: np.ndarray, *more: int) -> int:
        addresses = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
        return int(self.functions[f"conv1_{function}"](ctypes.byref(self.layer), *addresses, *more))


@pytest.mark.parametrize("target", [t.name for t in runnable_targets()])
@pytest.mark.parametrize("config", [{}, {"activation": "softmax"}, {"data_format": "channels_first"}], ids=str)
def test_threads_of_the_programs_own(config: dict[str, Any], target: str, tmp_path: Path) -> None:
    layer = read("SeparableConv2D", {**CONFIG, **config}, SHAPE)
    native = Native(tmp_path, layer, target)
    x = image(layer, integers=False)
    y, shared_y = (np.full(native.static.output // 4, np.nan, np.float32) for _ in range(2))
    assert native.init(*native.memory(3)) == 0 and native.layer.threads == 3
    assert native.call("run", x, y, 1) == 0
    reference, bound = expected(layer, x)
    assert_close(y.reshape(reference.shape), reference, bound)
    for step in range(native.functions.conv1_steps()):
        tasks = native.functions.conv1_tasks(step)
        edges = [tasks * part // 3 for part in range(4)]
        results: list[int] = []
        threads = [
            threading.Thread(
                target=lambda n=n, step=step, edges=edges, results=results: results.append(
                    native.call("run_tasks", x, shared_y, step, edges[n], edges[n + 1], n)
                )
            )
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [0, 0, 0]
    np.testing.assert_array_equal(shared_y, y)


def test_refused_arguments(layer: Any, tmp_path: Path) -> None:
    native = Native(tmp_path, layer, X86)
    x, y = np.ones(2 * 10 * 11 * 20, np.float32), np.full(2 * 10 * 11 * 24, np.nan, np.float32)
    arena, nbytes = native.memory(1)
    assert nbytes == native.static.arena > 0
    assert native.functions.conv1_init(None, ctypes.c_void_p(arena), ctypes.c_size_t(nbytes)) == -1
    assert native.call("run", x, y, 1) == -1  # not initialised
    assert native.init(0, nbytes) == native.init(arena, nbytes - 1) == -2
    assert native.init(arena + 4, nbytes) == -3
    assert native.init(arena, nbytes) == 0
    assert native.call("run", x, y, -1) == -1
    assert native.call("run", x, y, 0) == 0 and np.isnan(y).all()
    for step, begin, end, thread in ((-1, 0, 1, 0), (9, 0, 1, 0), (0, -1, 1, 0), (0, 0, 10**6, 0), (0, 0, 1, 1)):
        assert native.call("run_tasks", x, y, step, begin, end, thread) == -1
    assert np.isnan(y).all()
    assert native.call("run", x, y, 2) == 0 and not np.isnan(y).any()
    native.functions.conv1_free(ctypes.byref(native.layer))
    assert native.call("run", x, y, 1) == -1


def test_half_precision_on_other_machines(tmp_path: Path) -> None:
    for target in (*OTHERS, "cortex-m4"):
        folder = tmp_path / target
        folder.mkdir()
        config = {**CONFIG, "dtype": "float16", "activation": "relu"}
        half = with_integers(read("SeparableConv2D", config, SHAPE, **K3))
        x = image(half, integers=True)
        chosen = get_target(target)
        program = Program(folder, library(half, chosen), core_of(chosen))
        buffers = [program.emulator.guarded(n) for n in (x.nbytes, program.static.output)]
        buffers[0].write(x)
        started, _ = program.start()
        assert program.call("run", started.address, *(buffer.address for buffer in buffers), 1) == 0
        reference, bound = expected(half, x)
        assert_close(buffers[1].read("float16").reshape(reference.shape), reference, bound)


def test_this_machine_is_one_of_those_above() -> None:
    assert get_target(X86).arch == cpu.machine()
