"""What happens inside an artifact's own process: it is loaded, checked and timed here."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.machinery
import importlib.util
import json
import math
import mmap
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

BATCH_US = 200.0  # a clock reading per batch of calls: far above the clock's own cost
# Beside its own tolerance a sampled check cannot see every pixel; between two right outputs lies at most the sum of
# their errors. Twice that sum, and a thousandth of the value, leaves room for elements that no sample stands for.
DENSE_TOLERANCES, DENSE_RELATIVE = 4.0, 1e-3

Json = dict[str, Any]


class LaneError(Exception):
    """An artifact failed; ``kind`` is crash, hang, memory, wrong or load."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Guarded:
    """``nbytes`` of memory that end where a page begins that may not be touched, or begin where one ends.

    Stands in for ``runtime.buffers.Buffer`` while an artifact is checked.
    """

    at_end = True

    def __init__(self, nbytes: int, alignment: int = 64) -> None:
        self.nbytes = nbytes
        size = -(-max(nbytes, 1) // alignment) * alignment
        pages = -(-size // mmap.PAGESIZE)
        self._map = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for border in (base, base + (pages + 1) * mmap.PAGESIZE):
            forbid_page(border)
        offset = mmap.PAGESIZE + (pages * mmap.PAGESIZE - size if self.at_end else 0)
        self.memory: Any = (ctypes.c_char * max(nbytes, 1)).from_buffer(self._map, offset)
        self.view, self.address = self.memory, base + offset

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of ``shape`` in this memory."""
        return np.ndarray(shape, dtype, self.memory)


def forbid_page(address: int) -> None:
    """Any access to the page at ``address`` ends the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")


class KnownCode(importlib.machinery.SourceFileLoader):
    """Imports without compiling again: the loaders of two artifacts are mostly the same text."""

    codes: ClassVar[dict[bytes, Any]] = {}

    def get_code(self, fullname: str) -> Any:
        return self.compiled(Path(self.path))

    @classmethod
    def compiled(cls, path: Path) -> Any:
        """The code of a file. What the process that forks calls this for, its children know."""
        source = path.read_bytes()
        if source not in cls.codes:
            cls.codes[source] = compile(source, str(path), "exec", dont_inherit=True)
        return cls.codes[source]


def learn(folder: str) -> None:
    """Compile the artifact's Python files, and run none of them."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):  # its own process will say what is wrong with it
        for path in Path(folder).rglob("*.py"):
            KnownCode.compiled(path)


def import_artifact(folder: str) -> Any:
    """The artifact's package, as ``import`` would find it, whatever its folder is called."""

    def finder(path: str) -> Any:
        if not path.startswith(folder):
            raise ImportError
        return importlib.machinery.FileFinder(path, (KnownCode, [".py"]))

    sys.path_hooks.insert(0, finder)
    loader = KnownCode("artifact", str(Path(folder, "__init__.py")))
    spec = importlib.util.spec_from_file_location(
        "artifact", loader.path, loader=loader, submodule_search_locations=[folder]
    )
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["artifact"] = package
    loader.exec_module(package)
    return package


@contextlib.contextmanager
def guarded_buffers() -> Iterator[None]:
    """The memory of the artifact's own loader (weights, scratch, intermediates) lies between guard pages meanwhile."""
    modules: list[Any] = [sys.modules["artifact.runtime.buffers"], sys.modules["artifact.runtime.layer"]]
    own = modules[0].Buffer
    for module in modules:
        module.Buffer = Guarded
    try:
        yield
    finally:
        for module in modules:
            module.Buffer = own


class Lane:
    """One artifact. ``request`` has what ``race.Request`` says; the first lane leaves its output in ``shared``."""

    def __init__(self, folder: str, request: Any, shared: str) -> None:
        self.package = import_artifact(folder)
        self.request, self.shared = request, shared
        self.layer: Any = None
        self.test: Any = None
        self.output: Any = None
        self.call: Callable[[], Any] = lambda: None
        self.batch = 1

    def check(self, first: bool) -> Json:
        """Check the output with guard pages behind the end of every buffer, then before its start.

        Every element is then compared with the first artifact's output, of which samples were checked.
        """
        worst = 0.0
        for at_end in (True, False):
            Guarded.at_end = at_end
            with guarded_buffers():
                layer = self.package.load(threads=self.request.threads)
                self.test = layer._selftest()
                self.output = self._guarded_call(layer)
            worst = max(worst, self._compare())
        if first:
            np.save(self.shared, self.output)
        else:
            self._compare_all(np.load(self.shared))
        return {"worst": worst}

    def warm(self) -> Json:
        """Load as users do, and find out how many calls make a batch."""
        self.layer = self.package.load(threads=self.request.threads)
        inputs = [np.array(x) for x in self.test.inputs]
        y = self.layer(*inputs)
        self.call = lambda: self.layer(*inputs, y)
        spent, best = 0.0, float("inf")
        while spent < self.request.warm_ms * 1e3:
            took = self._batch_us(1)
            best, spent = min(best, took), spent + took
        self.batch = max(1, round(BATCH_US / max(best, 0.05)))
        return {"calls": self.batch}

    def round(self) -> Json:
        """One turn: the best and the median batch, in microseconds per call."""
        times: list[float] = []
        while len(times) < 2 or sum(times) < self.request.round_ms * 1e3:
            times.append(self._batch_us(self.batch))
        ordered = sorted(times)
        return {"best_us": ordered[0] / self.batch, "median_us": ordered[len(ordered) // 2] / self.batch}

    def recheck(self) -> Json:
        """What was timed computes what was checked."""
        self.output = self.layer(*self.test.inputs)
        return {"worst": self._compare()}

    def _batch_us(self, calls: int) -> float:
        call, start = self.call, time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - start) / 1e3

    def _guarded_call(self, layer: Any) -> Any:
        """The output for the self-test's inputs, all in memory whose borders are watched."""
        mine = [Guarded(x.nbytes, x.itemsize).array(x.shape, x.dtype) for x in self.test.inputs]
        for here, x in zip(mine, self.test.inputs):  # noqa: B905 - Python 3.9 has no strict=
            here[...] = x
        shape = (mine[0].shape[0], *(int(size or 0) for size in layer.output_shape[1:]))
        y = Guarded(math.prod(shape) * layer.dtype.itemsize, layer.dtype.itemsize).array(shape, layer.dtype)
        y.fill(np.nan)  # an element that is not written shows
        layer(*mine, out=y)
        for here, x in zip(mine, self.test.inputs):  # noqa: B905
            if not np.array_equal(here, x, equal_nan=True):
                raise LaneError("wrong", "it writes to its input")
        return y.copy()

    def _compare(self) -> float:
        report = self.test.check(lambda *inputs: self.output)
        if not report.passed:
            raise LaneError("wrong", f"off by {report.max_error:.3g}, {report.worst:.3g} times the tolerance")
        return float(report.worst)

    def _compare_all(self, expected: Any) -> None:
        one, other = self.output.astype(np.float64), expected.astype(np.float64)
        limit = DENSE_TOLERANCES * float(np.max(self.test.tolerance, initial=0.0))
        with np.errstate(invalid="ignore"):
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            right = same | (np.abs(one - other) <= limit + DENSE_RELATIVE * np.abs(other))
        off = int(right.size - np.count_nonzero(right))
        if off:
            where = [int(index) for index in np.unravel_index(int(np.argmin(right)), right.shape)]
            values = f"y{where} is {one[tuple(where)]:g}, not {other[tuple(where)]:g}"
            raise LaneError("wrong", f"{off} of {right.size} elements differ from the incumbent's, first {values}")


def free_bytes() -> int:
    """Memory that is available on this machine."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found[1]) << 10 if found else 1 << 30


def limit_process(request: Any, memory: bool) -> None:
    """Bound ``memory``, and be the one that a machine out of memory ends first.

    A GPU's driver reserves more addresses than the machine has memory, so beside it memory cannot be bounded.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not memory:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
        most = taken + (request.memory_mb << 20 or free_bytes() * 3 // 4)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def keep_only(*descriptors: int) -> None:
    """Close all other files: the requests' and the other artifacts' pipes are not for native code to hold."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    for descriptor in range(3, 256):
        if descriptor not in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def serve_lane(folder: str, request: Any, shared: str, source: int, sink: int) -> None:
    """The life of an artifact's process: one verb per line in, one answer per line out."""
    from .gpu import GpuLane, is_for_gpu

    keep_only(source, sink)
    on_gpu = is_for_gpu(folder)
    limit_process(request, memory=not on_gpu)
    lane: Lane | None = None
    with os.fdopen(source, "r") as verbs, os.fdopen(sink, "w") as answers:
        for line in verbs:
            verb, *arguments = json.loads(line)
            try:
                if lane is None:
                    lane = (GpuLane if on_gpu else Lane)(folder, request, shared)
                answer = {"ok": True, **getattr(lane, verb)(*arguments)}
            except LaneError as error:
                answer = {"ok": False, "kind": error.kind, "reason": error.reason}
            except MemoryError as error:
                answer = {"ok": False, "kind": "memory", "reason": str(error) or "not enough memory"}
            except Exception as error:  # whatever the artifact's loader raises
                short = getattr(error, "errno", None) == errno.ENOMEM
                reason = f"{type(error).__name__}: {error}"
                answer = {"ok": False, "kind": "memory" if short else "load", "reason": reason}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
