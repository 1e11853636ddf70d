"""A layer ready to be called."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

import numpy as np

from .bound import BoundCall
from .buffers import Buffer, address_of, aligned_copies, aligned_empty
from .cuda_tensors import gpu_device
from .errors import ArtifactError, InputError
from .inputs import TensorSpec, as_input, check_out, check_shape
from .native import NativeLibrary
from .pool import MOST_THREADS, pool_address, usable_cpus
from .results import Benchmark, SelfTest, SelfTestReport

_Context = tuple[int, Buffer, Buffer]
_Shapes = tuple[tuple[int, ...], tuple[int, ...], int, int]


class Layer:
    """A compiled layer: ``layer(x)`` or ``layer(x, out=y)``, from any number of threads at a time.

    ``threads``: how many threads one call may use; None: as many as this process has CPUs; 1: never another thread.
    Results are bit-identical for any number of threads.
    Raises ``ArtifactError`` where the library refuses its weights, ``InputError`` for a bad ``threads``.
    """

    def __init__(
        self,
        *,
        name: str,
        variant: str,
        library: NativeLibrary,
        weights: Mapping[str, np.ndarray],
        input_spec: TensorSpec,
        output_spec: TensorSpec,
        threads: int | None = None,
        selftest: Callable[[], SelfTest] | None = None,
        on_gpu: Callable[[], Layer] | None = None,
    ) -> None:
        self._name, self._variant = name, variant
        self._on_gpu = on_gpu
        self._gpu_layer: Layer | None = None
        self._library, self._run = library, library.run
        self._input, self._output = input_spec, output_spec
        self._in_dtype, self._out_dtype = input_spec.dtype, output_spec.dtype
        self._threads = _checked_threads(threads)
        self._selftest = selftest
        # The table of the library is ordered by name.
        self._weights, offsets = aligned_copies([weights[key] for key in sorted(weights)])
        self._offsets = (ctypes.c_size_t * max(1, len(offsets)))(*offsets)
        self._shapes: _Shapes = ((-1,), (), 0, 0)  # of the last call; no array has this shape
        # Scratch memory is for one call at a time: calls take a context from this list and put it back.
        self._contexts: list[_Context] = []
        self._contexts.append(self._new_context(pool=0))
        if self._threads > 1:
            self._contexts.clear()  # the pool is started by the first call, not by loading

    @property
    def name(self) -> str:
        """The layer's name."""
        return self._name

    @property
    def variant(self) -> str:
        """The target that the running variant was compiled for."""
        return self._variant

    @property
    def threads(self) -> int:
        """How many threads one call may use."""
        return self._threads

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of ``x``, batch first; None stands for any batch."""
        return self._input.shape

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the result, batch first; None stands for the batch of ``x``."""
        return self._output.shape

    @property
    def takes_residual(self) -> bool:
        """Whether the layer has a second input, see ``ResidualLayer``."""
        return False

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the result."""
        return self._out_dtype

    @property
    def input_dtype(self) -> np.dtype:
        """The dtype that ``x`` is read in."""
        return self._in_dtype

    def __repr__(self) -> str:
        return f"<Layer {self._name!r}: {self._input} -> {self._output}, {self._variant}, {self._threads} thread(s)>"

    def __call__(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """The layer's output for ``x``.

        ``x``: an array of ``input_shape``: NumPy, or with ``__dlpack__`` (on the CPU) or ``__array__``. One that is not
        C-contiguous is copied; other floating dtypes are cast to ``input_dtype``; any other dtype is refused.
        ``out``: where to write, an array of the output's shape and dtype, C-contiguous, writable, apart from ``x``.
        Returns ``out``, or a new array. Raises ``InputError``.
        """
        if type(x) is np.ndarray and x.dtype is self._in_dtype:
            flags = x.flags
            if not (flags.c_contiguous and flags.aligned):
                x = as_input(x, self._input, self._name)
        elif self._on_gpu is not None and gpu_device(x) is not None:
            return self._gpu()(x, out)
        else:
            x = as_input(x, self._input, self._name)
        shapes = self._shapes
        if x.shape != shapes[0]:
            shapes = self._shapes_for(x.shape)
        if out is None:
            out = aligned_empty(shapes[1], self._out_dtype, shapes[3])
        elif (
            type(out) is not np.ndarray
            or out.dtype is not self._out_dtype
            or out.shape != shapes[1]
            or not out.flags.carray
        ):
            check_out(out, shapes[1], self._out_dtype, self._name)
        x_at, y_at = address_of(x), address_of(out)
        if x_at < y_at + shapes[3] and y_at < x_at + shapes[2]:
            raise InputError(f"layer {self._name!r}: out overlaps x in memory; expected an array of its own")
        context = self._take_context()
        try:
            self._run(context[0], x_at, y_at, shapes[0][0])
        finally:
            self._contexts.append(context)
        return out

    def _take_context(self) -> _Context:
        try:
            return self._contexts.pop()
        except IndexError:
            return self._new_context()

    def bind(self, *inputs: Any, out: Any = None) -> BoundCall:
        """The layer with its arrays in fixed places: ``bound()`` reads what the inputs hold by then and fills ``out``.

        ``inputs``: what a call takes, as C-contiguous NumPy arrays of the layer's own dtype; ``out``: as for a call, a
        new array where None. Raises ``InputError``, also for an input that a call would have to convert, since later
        writes to it would be lost.
        """
        call: Callable[..., np.ndarray] = self
        out = call(*inputs, out=out)
        for x in inputs:
            if type(x) is not np.ndarray or x.dtype != self._in_dtype or not x.flags.c_contiguous:
                raise InputError(
                    f"layer {self._name!r}: an input of type {type(x).__name__} cannot be bound; expected a "
                    f"C-contiguous numpy.ndarray of {self._in_dtype.name}, which need not be converted"
                )
        return BoundCall(inputs, out, lambda: self._in_place(inputs, out))

    def _in_place(self, inputs: tuple[np.ndarray, ...], out: np.ndarray) -> tuple[Callable[[], object], object]:
        """The native call on checked arrays, and the context of its own that must live as long."""
        context = self._new_context()
        addresses = [address_of(array) for array in (*inputs, out)]
        return partial(self._run, context[0], *addresses, out.shape[0]), (self, context)

    def __copy__(self) -> Layer:
        """The layer itself: nothing in it changes."""
        return self

    def __deepcopy__(self, memo: object) -> Layer:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"layer {self._name!r} cannot be pickled, since it holds native code and memory; "
            "load the artifact in the process that uses it"
        )

    def _gpu(self) -> Layer:
        """The artifact's variant for GPUs, which is opened by the first tensor that lies on one."""
        assert self._on_gpu is not None
        if self._gpu_layer is None:
            self._gpu_layer = self._on_gpu()
        return self._gpu_layer

    def _shapes_for(self, shape: tuple[int, ...]) -> _Shapes:
        """Input shape, output shape, input bytes, output bytes; kept for the next call."""
        check_shape(shape, self._input, self._name, "x")
        tail = tuple(int(size or 0) for size in self._output.shape[1:])
        out_shape = (shape[0], *tail)
        in_bytes = int(np.prod(shape, dtype=object)) * self._in_dtype.itemsize
        out_bytes = int(np.prod(out_shape, dtype=object)) * self._out_dtype.itemsize
        # One assignment of one object: another thread sees the old shapes or the new ones, never a mixture.
        self._shapes = shapes = (shape, out_shape, in_bytes, out_bytes)
        return shapes

    def _new_context(self, pool: int | None = None) -> _Context:
        library, threads = self._library, self._threads
        arena = Buffer(library.arena_bytes(threads))
        struct = Buffer(library.layer_bytes())
        if pool is None:
            pool = pool_address(threads, library, self) if threads > 1 else 0
        status = library.init(
            struct.address, self._weights.address, ctypes.addressof(self._offsets), arena.address, arena.nbytes,
            pool, threads,
        )  # fmt: skip
        if status != 0:
            raise ArtifactError(f"layer {self._name!r}: {library.path} refused to start, status {status}")
        return struct.address, struct, arena

    def forget_pool(self) -> None:
        """Called in the child after a fork: its first call starts threads of its own."""
        if self._threads > 1:
            self._contexts = []

    def selftest(self) -> SelfTestReport:
        """Runs the self-test that the artifact carries. Raises ``ArtifactError`` where it carries none."""
        if self._selftest is None:
            raise ArtifactError(f"layer {self._name!r} carries no self-test")
        return self._selftest().check(self)

    def random_inputs(self, batch: int = 1, seed: int = 0) -> tuple[np.ndarray, ...]:
        """Inputs of normally distributed numbers, to call the layer with; ``batch`` is for a layer with any."""
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
            raise InputError(f"layer {self._name!r}: batch is {batch!r}; expected a whole number of at least 0")
        first = batch if self._input.shape[0] is None else self._input.shape[0]
        shape = (first, *(int(size or 0) for size in self._input.shape[1:]))
        return (np.random.default_rng(seed).standard_normal(shape).astype(self._in_dtype),)

    def benchmark(self, batch: int | None = None, seconds: float = 0.5, x: np.ndarray | None = None) -> Benchmark:
        """Time per call of ``layer(x, out=y)`` in seconds, over about ``seconds`` seconds of calls.

        ``batch``: images per call, 1 where the batch is dynamic. ``x``: an input to use instead of a random one.
        """
        inputs = self.random_inputs(1 if batch is None else batch)
        if x is not None:
            x = as_input(x, self._input, self._name)
            inputs = (x, *self.random_inputs(x.shape[0])[1:])
        call: Callable[..., np.ndarray] = self  # of one input or two
        y = call(*inputs)
        times: list[float] = []
        end = perf_counter() + seconds
        while len(times) < 5 or perf_counter() < end:
            start = perf_counter()
            call(*inputs, y)
            times.append(perf_counter() - start)
        return Benchmark.of(times, batch=inputs[0].shape[0], threads=self._threads, variant=self._variant)


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return usable_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads is {threads!r}; expected None or a whole number from 1 to {MOST_THREADS}")
    return threads
