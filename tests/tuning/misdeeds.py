"""Artifacts that misbehave: real ones, whose library is replaced by C that wraps the right one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import sepcompile
from sepcompile.codegen.link import zig
from sepcompile.tuning.runner import Candidate

CONFIG = {"class_name": "SeparableConv2D", "config": {"name": "sep", "filters": 8, "kernel_size": 3, "padding": "same"}}
SHAPE = (1, 12, 12, 8)
OUTPUT = 12 * 12 * 8  # elements

# Every function of the library is handed on, with as many arguments as any of them takes; what is not used is noise.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void* right(const char* name) {
    static void* library;
    if (!library) {
        Dl_info here;
        char path[4096];
        dladdr((void*)right, &here);
        snprintf(path, sizeof path, "%s.right", here.dli_fname);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return dlsym(library, name);
}

// From a file beside the library, so that one compiled library serves many artifacts.
static double own_us;
static char slow_flag[4096];
static void read_settings(void) {
    Dl_info here;
    char path[4096];
    dladdr((void*)right, &here);
    snprintf(path, sizeof path, "%s.settings", here.dli_fname);
    FILE* file = fopen(path, "r");
    if (!file || fscanf(file, "%lf %4095[^\n]", &own_us, slow_flag) != 2) abort();
    fclose(file);
}

static long calls;
static void sleep_us(long us) { struct timespec t = {us / 1000000, us % 1000000 * 1000}; nanosleep(&t, 0); }
static void spin_us(double us) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    double end = t.tv_sec * 1e6 + t.tv_nsec / 1e3 + us;
    do clock_gettime(CLOCK_MONOTONIC, &t); while (t.tv_sec * 1e6 + t.tv_nsec / 1e3 < end);
}

typedef long F(long, long, long, long, long, long, long);
#define FORWARD(name, before, after)                                                       \
    long SYMBOL_##name(long a, long b, long c, long d, long e, long f, long g) {           \
        before;                                                                            \
        long result = ((F*)right("SYMBOL_" #name))(a, b, c, d, e, f, g);                   \
        after;                                                                             \
        return result;                                                                     \
    }
FORWARD(abi, , )
FORWARD(layer_bytes, , )
FORWARD(arena_bytes, , AFTER_ARENA)
FORWARD(init, BEFORE_INIT, )
FORWARD(run, float* x = (float*)b; float* y = (float*)c; (void)x; (void)y; calls++; BEFORE_RUN, AFTER_RUN)
FORWARD(pool_bytes, , )
FORWARD(pool_init, , )
FORWARD(pool_worker, , )
"""

# What goes wrong, where, and the kind of failure that it must be recorded as.
MISDEEDS = {
    "segfault": ({"BEFORE_RUN": "*(volatile int*)0 = 1"}, "crash"),
    "abort": ({"BEFORE_RUN": "abort()"}, "crash"),
    "exit": ({"BEFORE_RUN": "_exit(0)"}, "crash"),
    "crash on init": ({"BEFORE_INIT": "raise(SIGILL)"}, "crash"),
    "crash while timed": ({"BEFORE_RUN": "if (calls > 3) *(volatile int*)0 = 1"}, "crash"),
    "hang": ({"BEFORE_RUN": "for (;;) pause()"}, "hang"),
    "busy hang": ({"BEFORE_RUN": "for (volatile int i = 0;; i++)"}, "hang"),
    "write behind the output": ({"AFTER_RUN": f"y[{OUTPUT}] = 0"}, "crash"),
    "write before the output": ({"AFTER_RUN": "y[-1] = 0"}, "crash"),
    "read behind the input": ({"BEFORE_RUN": f"volatile float v = x[{12 * 12 * 8}]; (void)v"}, "crash"),
    "write to the input": ({"AFTER_RUN": "x[5] += 1"}, "wrong"),
    "wrong element": ({"AFTER_RUN": f"y[{OUTPUT - 1}] += 1"}, "wrong"),
    "unwritten element": ({"AFTER_RUN": "y[7] = __builtin_nanf(\"\")"}, "wrong"),
    "wrong while timed": ({"AFTER_RUN": "if (calls > 50) y[0] += 1"}, "wrong"),
    "huge arena": ({"AFTER_ARENA": "result = 1l << 45"}, "memory"),
    "eats memory": (
        {"BEFORE_RUN": "for (;;) { char* volatile p = malloc(1 << 24); if (!p) raise(9); memset(p, 1, 1 << 24); }"},
        "memory",
    ),
}  # fmt: skip


def compile_good(folder: Path, schedule: object = None, name: str = "sep") -> Path:
    """A small layer's artifact."""
    config = {**CONFIG, "config": {**CONFIG["config"], "name": name}}
    return sepcompile.compile(config, SHAPE, schedule=schedule, output=folder).path


@cache
def _library(symbol: str, snippets: tuple[tuple[str, str], ...]) -> bytes:
    """The wrapper, compiled with zig for this machine's C library."""
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    with tempfile.TemporaryDirectory() as folder:
        source = SOURCE.replace("SYMBOL", symbol)
        flags = {"BEFORE_RUN": "", "AFTER_RUN": "", "BEFORE_INIT": "", "AFTER_ARENA": "", **dict(snippets)}
        for name, text in flags.items():
            source = source.replace(name, text)
        Path(folder, "bad.c").write_text(source)
        command = [
            str(zig()), "cc", "-target", f"{platform.machine()}-linux-{libc}", "-shared", "-fPIC", "-O1",
            "-fno-sanitize=all", "bad.c", "-o", "bad.so",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return Path(folder, "bad.so").read_bytes()


def spoil(good: Path, folder: Path, **snippets: str) -> Path:
    """A copy of the artifact ``good`` in ``folder`` whose library runs pieces of C around the right one."""
    shutil.copytree(good, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    variant = manifest["variants"][0]
    library = folder / variant["library"]
    right = library.with_name(library.name + ".right")
    library.rename(right)
    library.write_bytes(_library(variant["entry"]["symbol"].removesuffix("_run"), tuple(sorted(snippets.items()))))
    for path in (library, right):
        data = path.read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][os.fspath(path.relative_to(folder))] = entry
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def sleepy(good: Path, folder: Path, microseconds: int) -> Path:
    """A copy whose calls take their time without using a CPU: measuring is then what a search waits for."""
    return spoil(good, folder, BEFORE_RUN=f"sleep_us({microseconds})")


def slowing(good: Path, folder: Path, microseconds: float, slow: Path) -> Path:
    """A copy whose calls take that much longer, and three times that once there is a file ``slow``."""
    spoil(
        good, folder, BEFORE_RUN="if (!own_us) read_settings(); spin_us(own_us * (access(slow_flag, F_OK) ? 1 : 3))"
    )
    (library,) = folder.glob("*/*.so")
    library.with_name(library.name + ".settings").write_text(f"{microseconds} {slow}")
    return folder


def candidate(folder: Path) -> Candidate:
    """As the tuner would have made it."""
    return Candidate.of(folder, {})
