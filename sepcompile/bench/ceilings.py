"""Measures the machine's ceilings with a small C library: the FMA rate and the bandwidth of each memory level."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepcompile.bench.errors import BenchError
from sepcompile.bench.peers.arrays import aligned_like
from sepcompile.bench.report import Bandwidth, Ceilings

SOURCE = Path(__file__).with_name("ceilings.c")
BLOCK = 8 * 64  # every buffer is a multiple of what one loop iteration reads


class Probe:
    """The probes, compiled for this CPU or an instruction set level.

    The calls drop the GIL, so Python threads run them side by side.
    """

    def __init__(self, isa: str = "") -> None:
        with tempfile.TemporaryDirectory(prefix="sepcompile-bench-") as folder:
            path = Path(folder) / "ceilings.so"
            _build(path, isa.replace("-", "_") or "native")
            self._library = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        for name, arguments in (
            ("bench_fma", [size, pointer]),
            ("bench_read", [pointer, size, size, pointer]),
            ("bench_copy", [pointer, size, size]),
        ):
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, size

    @property
    def vector_bits(self) -> int:
        return 8 * int(self._library.bench_vector_bytes())

    def fma_gflops(self, threads: int, seconds: float = 0.02) -> float:
        """Float32 multiply-adds of ``threads`` threads at once, in GFLOP/s."""

        def work() -> Callable[[int], int]:
            sink = np.zeros(64, np.float32)
            return lambda passes: int(self._library.bench_fma(passes, sink.ctypes.data))

        return _rate([work() for _ in range(threads)], seconds) / 1e9

    def read_gbs(self, threads: int, size: int, seconds: float = 0.02) -> float:
        """Reading a buffer of ``size`` bytes per thread, in GB/s together."""

        def work() -> Callable[[int], int]:
            x, sink = _buffer(size), np.zeros(64, np.float32)
            return lambda passes: int(self._library.bench_read(x.ctypes.data, x.nbytes, passes, sink.ctypes.data))

        return _rate([work() for _ in range(threads)], seconds) / 1e9

    def copy_gbs(self, threads: int, size: int, seconds: float = 0.02) -> float:
        """Copying within a buffer of ``size`` bytes per thread; bytes read and written both count."""

        def work() -> Callable[[int], int]:
            x = _buffer(size)
            return lambda passes: int(self._library.bench_copy(x.ctypes.data, x.nbytes, passes))

        return _rate([work() for _ in range(threads)], seconds) / 1e9


def _build(path: Path, cpu: str) -> None:
    flags = ["-O3", f"-mcpu={cpu}", "-mprefer-vector-width=512", "-ffp-contract=fast", "-shared", "-fPIC", "-nostdlib"]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise BenchError(f"the ceilings probe did not compile: {done.stderr.strip()[-400:]}")


def _buffer(size: int) -> Any:
    return aligned_like((max(BLOCK, size // BLOCK * BLOCK) // 4,))


def _rate(works: Sequence[Callable[[int], int]], seconds: float) -> float:
    """Units per second of all workers together, each running for about ``seconds``."""
    passes = _calibrate(works[0], seconds)
    barrier = threading.Barrier(len(works) + 1)
    done: list[int] = []

    def run(work: Callable[[int], int]) -> None:
        barrier.wait()
        done.append(work(passes))

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def _calibrate(work: Callable[[int], int], seconds: float) -> int:
    passes = 1
    while True:
        start = time.perf_counter()
        work(passes)
        took = time.perf_counter() - start
        if took > seconds / 8:
            return max(1, round(passes * seconds / took))
        passes *= 4


def levels(caches: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Working sets that sit in each data cache with room to spare, and one that is beyond all of them."""
    sizes = [(level, size // 2) for level, size in caches if size]
    largest = max((size for _, size in caches), default=32 << 20)
    return [*sizes, ("DRAM", min(4 * largest, 512 << 20))]


def measure_bandwidth(probe: Probe, threads: Sequence[int], caches: Sequence[tuple[str, int]]) -> tuple[Bandwidth, ...]:
    """Every level at every thread count, best of three. A shared last level is divided among the threads."""
    found = []
    for count in threads:
        for level, size in levels(caches):
            share = size // count if level in ("L3", "DRAM") else size
            read = max(probe.read_gbs(count, share) for _ in range(3))
            copy = max(probe.copy_gbs(count, share) for _ in range(3))
            found.append(Bandwidth(level, share, count, round(read, 2), round(copy, 2)))
    return tuple(found)


def collect(samples: dict[int, list[float]], bandwidth: tuple[Bandwidth, ...], vector_bits: int) -> Ceilings:
    """The ceilings from all FMA samples taken before, between and after the rounds."""
    rounded = {n: tuple(round(v, 2) for v in values) for n, values in samples.items()}
    return Ceilings({n: max(v) for n, v in rounded.items() if v}, rounded, bandwidth, vector_bits)


def unmeasured(reason: str) -> Ceilings:
    return Ceilings({}, {}, (), 0, reason)
