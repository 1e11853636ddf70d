"""Compiles in a process of its own: a crash or an abort of LLVM becomes a ``CompileError``, and the caller's process
never imports TVM.

The process is started once and kept: importing TVM takes longer than compiling a layer. Requests and answers are
pickles over its own pipes, between one program and itself; no file is ever read this way.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

from sepcompile.codegen.plan import CompiledKernels
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.compute.form import Form
from sepcompile.compute.planar_record import CpuSchedule
from sepcompile.errors import CompileError, SepcompileError
from sepcompile.targets import Target

TIMEOUT_S = 300.0
_HEADER = 8
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What the worker needs to compile one variant."""

    form: Form
    record: CpuSchedule | CudaSchedule
    target: Target
    symbol: str
    texts: bool = False


class Worker:
    """One compile process. Calls from several threads take turns.

    ``bound``: the process ends with the thread that starts it, however that ends, and leaves the processor to others.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, bound: bool = False) -> None:
        self._timeout_s, self._bound = timeout_s, bound
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process if it is not running, so that it imports TVM while the caller does something else."""
        with self._lock:
            self._running()

    def compile(self, job: Job) -> CompiledKernels:
        """Compile one variant. Raises what ``lower.compile_form`` raises, and ``CompileError`` for a crash."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                _send(process.stdin, job)
                if not select.select([process.stdout], [], [], self._timeout_s)[0]:
                    raise CompileError(f"{job.symbol}: compiling for {job.target.name} took over {self._timeout_s:g} s")
                answer = _receive(process.stdout)
            except (OSError, EOFError) as error:
                raise self._crashed(process, job) from error
            except BaseException:
                # An answer may still be on its way; a later request must not take it for its own.
                self._stop()
                raise
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, CompiledKernels)
        return answer

    def pause(self, paused: bool) -> None:
        """Let the process stand still, or go on: for a while in which nothing else may run."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def end(self) -> None:
        """End the process at once: the ``compile`` that it is at fails."""
        process = self._process
        if process is not None and self._owner == os.getpid():
            process.kill()

    def close(self) -> None:
        """End the process; the next ``compile`` starts another."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes belong to the parent: the child starts a worker of its own.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            code = f"from sepcompile.codegen.worker import serve; serve(bound={self._bound})"
            command = [sys.executable, "-c", code]
            path = os.pathsep.join(entry for entry in sys.path if entry)
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            self._owner = os.getpid()
        return self._process

    def _crashed(self, process: subprocess.Popen[bytes], job: Job) -> CompileError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        status = process.poll()
        message = self._last_message()
        self._stop()
        how = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"status {status}"
        return CompileError(f"{job.symbol}: the compiler for {job.target.name} crashed ({how}): {message}")

    def _last_message(self) -> str:
        """The last line that the process wrote to its standard error."""
        if self._messages is None:
            return "no message"
        self._messages.seek(0)
        lines = self._messages.read()[-4000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@cache
def shared_worker() -> Worker:
    """The one worker of this process."""
    worker = Worker()
    atexit.register(worker.close)
    return worker


def serve(bound: bool = False) -> None:
    """The worker's side: answers requests until its input ends. ``bound``: see ``Worker``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if bound:
        os.nice(10)
        with contextlib.suppress(OSError, AttributeError):
            # A process that stands still does not see the end of its input.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # TVM and LLVM print to standard output; it must not reach the pipe.
    os.dup2(2, 1)
    # TVM is imported before the first job comes.
    importlib.import_module("sepcompile.codegen.lower")

    while True:
        try:
            job = _receive(source)
        except EOFError:
            return
        try:
            answer: object = _compile(job)
        except SepcompileError as error:
            answer = error
        except Exception as error:
            answer = CompileError(f"{job.symbol}: {type(error).__name__}: {error}")
        _send(sink, answer)


def _compile(job: Job) -> CompiledKernels:
    if isinstance(job.record, CudaSchedule):
        from sepcompile.codegen import cuda_lower

        images = job.target.images
        return cuda_lower.compile_form(job.form, job.record, images, symbol=job.symbol, texts=job.texts)
    from sepcompile.codegen import lower

    return lower.compile_form(job.form, job.record, job.target, symbol=job.symbol, texts=job.texts)


def _send(pipe: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(len(data).to_bytes(_HEADER, "little") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    header = pipe.read(_HEADER)
    if len(header) < _HEADER:
        raise EOFError("the pipe ended")
    size = int.from_bytes(header, "little")
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the pipe ended inside a message")
    return pickle.loads(data)
