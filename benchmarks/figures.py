"""Prints the figures that sepcompile promises about itself, each beside its limit: compile time, sizes, overheads.

    python benchmarks/figures.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import sepcompile
from sepcompile.bench import suites
from sepcompile.codegen.worker import shared_worker
from sepcompile.targets import native

TINY = {"class_name": "SeparableConv2D", "config": {"name": "tiny", "filters": 8, "kernel_size": 3, "padding": "same"}}


def compile_figures(folder: Path) -> tuple[float, str, int, str]:
    """Slowest compile in seconds and largest library in bytes over both suites, each with its layer's name."""
    slowest, largest = (0.0, ""), (0, "")
    sepcompile.compile(TINY, (1, 4, 4, 8), output=folder / "warm", cache=False)
    for layer in [*suites.load("dev"), *suites.load("held-out")]:
        source = {"class_name": layer.class_name, "config": dict(layer.config)}
        version = "2" if layer.config.get("padding") == "causal" else "3.15"
        start = time.perf_counter()
        artifact = sepcompile.compile(
            source, layer.input_shape, keras_version=version, output=folder / layer.name, cache=False
        )
        slowest = max(slowest, (time.perf_counter() - start, layer.name))
        library = next((artifact.path / native().name).glob("*.so"))
        largest = max(largest, (library.stat().st_size, layer.name))
    return *slowest, *largest


def call_overhead(folder: Path) -> tuple[float, float]:
    """Seconds of ``layer(x)`` and of ``layer(x, out=y)`` on a 1x4x4x8 layer, best batch of many."""
    layer = sepcompile.compile(TINY, (1, 4, 4, 8), output=folder / "tiny").load()
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    y = layer(x)
    plain = into = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(100):
            layer(x)
        middle = time.perf_counter()
        for _ in range(100):
            layer(x, out=y)
        end = time.perf_counter()
        plain, into = min(plain, (middle - start) / 100), min(into, (end - middle) / 100)
    return plain, into


def in_fresh_python(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, slow, size, large = compile_figures(folder)
        plain, into = call_overhead(folder)
        timed = "import time; t = time.perf_counter(); import sepcompile; print(time.perf_counter() - t)"
        imported = min(float(in_fresh_python(timed)) for _ in range(5))
        loads = f"import sys, sepcompile; sepcompile.load({str(folder / 'tiny')!r}); print('tvm' in sys.modules)"
        tvm = in_fresh_python(loads)
    shared_worker().close()
    print(f"slowest compile of a suite layer, after import   {seconds:8.2f} s    (limit 2 s)      {slow}")
    print(f"largest library, without weights                 {size / 1024:8.1f} KB   (limit 64 KB)    {large}")
    print(f"import sepcompile                                {imported * 1e3:8.1f} ms   (limit 100 ms)")
    print(f"TVM in the process after load                    {tvm:>8s}      (limit False)")
    print(f"layer(x) on 1x4x4x8                              {plain * 1e6:8.2f} us   (limit 10 us)")
    print(f"layer(x, out=y) on 1x4x4x8                       {into * 1e6:8.2f} us   (limit 3 us)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
