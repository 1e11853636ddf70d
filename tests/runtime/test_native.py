"""The C side: sources for every architecture, the C API, the pool driven from C."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from sepcompile.codegen.entry import exported_symbols, pool_symbols, render_entry
from sepcompile.codegen.link import compile_c, link_objects
from sepcompile.codegen.plan import Plan, Step
from sepcompile.errors import CompileError

STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
ARCHES = ["x86_64-linux-musl", "aarch64-linux-musl", "arm-linux-musleabihf", "riscv64-linux-musl"]


@pytest.mark.parametrize("triple", ARCHES)
@pytest.mark.parametrize("steps", [1, 2])
def test_entry_compiles_without_warnings(samples, triple, steps):
    sample = samples(steps=steps)
    source = render_entry(sample.plan(), name="conv1", weights=tuple(sample.weights()))
    compile_c(source, triple=triple, flags=STRICT)
    compile_c(source, triple=triple, flags=(*STRICT, "-DSEP_NO_THREADS"))


def test_entry_for_bare_metal(samples):
    source = render_entry(samples(steps=2).plan(), name="conv1", weights=("scale", "shift"))
    flags = ("-DSEP_NO_THREADS", "-mcpu=cortex_m4")
    assert compile_c(source, triple="thumb-freestanding-eabihf", flags=flags)[:4] == b"\x7fELF"
    with pytest.raises(CompileError, match=r"error: no"):
        compile_c("#error no", triple="thumb-freestanding-eabihf")


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "armv7", "riscv64"])
def test_libraries_need_nothing(samples, variant, arch, tmp_path):
    """Exports are exactly the entry points, and no other library is needed (link_objects refuses undefined symbols)."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is missing")
    (tmp_path / "l.so").write_bytes(variant(samples(steps=2), "other", arch=arch).library)
    dynamic = subprocess.run([readelf, "-dW", tmp_path / "l.so"], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in dynamic and "conv1" in dynamic
    table = subprocess.run([readelf, "-W", "--dyn-syms", tmp_path / "l.so"], capture_output=True, text=True, check=True)
    names = {line.split()[7] for line in table.stdout.splitlines() if "FUNC" in line and "GLOBAL" in line}
    assert names == {*exported_symbols("conv1"), *pool_symbols("conv1")}


def test_undefined_symbols_are_refused():
    exported = '__attribute__((visibility("default")))'
    code = compile_c(f"void f(void); {exported} void g(void) {{ f(); }}", triple="x86_64-linux-musl")
    with pytest.raises(CompileError, match="undefined"):
        link_objects([code], exports=["g"], soname="l.so")


STEP = Step("k", ("x", "y"), 1, 0, 1)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan((), (), 4, 4), "no steps"),
        (Plan((Step("k", ("x", "w:gone"), 1, 0, 1),), (), 4, 4), "w:gone"),
        (Plan((Step("k", ("x", "t:gone"), 1, 0, 1),), (), 4, 4), "t:gone"),
        (Plan((Step("k", ("x", "z"), 1, 0, 1),), (), 4, 4), "operand 'z'"),
        (Plan((Step("k", ("x",), 0, 0, 1),), (), 4, 4), "0 tasks"),
        (Plan((Step("k", ("x",), 2**31, 0, 1),), (), 4, 4), "tasks"),
        (Plan((Step("k", ("x",), 1, -1, 1),), (), 4, 4), "scratch_bytes"),
        (Plan((Step("k;", ("x",), 1, 0, 1),), (), 4, 4), "identifier"),
        (Plan((STEP,), (("a", 1), ("a", 2)), 4, 4), "twice"),
        (Plan((STEP,), (("a", -1),), 4, 4), "negative"),
        (Plan((STEP,), (), -4, 4), "x_bytes"),
    ],
)
def test_plans_that_do_not_hold_together(plan, words):
    with pytest.raises(CompileError, match=words):
        render_entry(plan, name="conv1", weights=("w",))
    with pytest.raises(CompileError, match="identifier"):
        render_entry(Plan((STEP,), (), 4, 4), name="no name", weights=())


def build(artifact, source, output):
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is missing")  # zig would first build a C library, which takes most of a minute
    library = artifact / "here" / "libconv1.so"
    subprocess.run(
        [gcc, "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", f"-I{artifact / 'include'}", source,
         library, f"-Wl,-rpath,{library.parent}", "-lpthread", "-o", output], check=True,
    )  # fmt: skip


def run_program(program, artifact):
    return subprocess.run(
        [program, artifact / "weights.safetensors"], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_example_runs(artifact, samples, tmp_path):
    build(artifact, artifact / "src" / "example.c", tmp_path / "example")
    done = run_program(tmp_path / "example", artifact)
    expected = samples().expected(np.ones((1, 12, 8), np.float32)).reshape(-1)[:8]
    assert done.returncode == 0
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float32), expected)


PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "conv1.h"
#define THREADS 3
#define BATCH 5
static float x[BATCH * CONV1_X_SIZE], y[BATCH * CONV1_Y_SIZE], z[BATCH * CONV1_Y_SIZE];
static char weights[4096];
static void *pool;
static void *worker(void *index) { conv1_pool_worker(pool, (int32_t)(intptr_t)index); return NULL; }
int main(int argc, char **argv) {
    conv1_layer one, many;
    pthread_t threads[THREADS];
    size_t bytes = conv1_arena_bytes(THREADS), i;
    char *arena = malloc(2 * bytes + 2);
    FILE *file = fopen(argv[argc - 1], "rb");
    if (!file || fread(weights, 1, sizeof weights, file) == 0) return 1;
    if (posix_memalign(&pool, 64, conv1_pool_bytes())) return 1;
    memset(pool, 0, conv1_pool_bytes());
    conv1_pool_init(pool, THREADS);
    for (i = 1; i < THREADS; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
    if (conv1_init(&one, weights, conv1_weights_here, arena, bytes - 1, NULL, THREADS) != -3) return 2;
    if (conv1_init(&one, NULL, conv1_weights_here, arena, bytes, NULL, 1) != -2) return 3;
    if (conv1_init(&one, weights, conv1_weights_here, arena, bytes, NULL, 0) != -1) return 4;
    if (conv1_init(&one, weights, conv1_weights_here, arena, 1 << 30, pool, THREADS + 1) != -4) return 5;
    if (conv1_init(&one, weights, conv1_weights_here, arena + 1, bytes, NULL, 1) != 0) return 6;
    if (conv1_init(&many, weights, conv1_weights_here, arena + 1 + bytes, bytes, pool, THREADS) != 0) return 7;
    for (int round = 0; round < 20000; round++) {
        for (i = 0; i < BATCH * CONV1_X_SIZE; i++) x[i] = (float)(i + (size_t)round);
        int32_t batch = round % (BATCH + 1);
        conv1_run(&one, x, y, batch);
        conv1_run(&many, x, z, batch);
        if (memcmp(y, z, sizeof y)) return 8;
    }
    conv1_pool_stop(pool);
    for (i = 1; i < THREADS; i++) pthread_join(threads[i], NULL);
    conv1_run(&many, x, z, 1); /* a pool without workers */
    conv1_free(&one);
    conv1_free(&many);
    free(arena);
    free(pool);
    puts("same");
    return 0;
}
"""


def test_a_program_with_threads(artifact, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    build(artifact, tmp_path / "program.c", tmp_path / "program")
    done = run_program(tmp_path / "program", artifact)
    assert (done.returncode, done.stdout) == (0, "same\n")
