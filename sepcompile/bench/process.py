"""A peer's process as the driver sees it: started, stopped while others run, asked, ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepcompile.bench.errors import PeerError, UnsupportedLayerError
from sepcompile.bench.peers import ISA_ENV, OURS
from sepcompile.bench.peers.base import Settings

PACKAGE = Path(__file__).resolve().parents[1]

# In a foreign Python, sepcompile/__init__.py may not import (it needs our dependencies): the worker's modules are
# reached through bare package objects instead, which need NumPy alone.
BOOTSTRAP = """
import runpy, sys, types
for name, path in (("sepcompile", {package!r}), ("sepcompile.bench", {bench!r})):
    module = types.ModuleType(name); module.__path__ = [path]; sys.modules[name] = module
runpy.run_module("sepcompile.bench.worker", run_name="__main__", alter_sys=True)
"""


def thread_environment(threads: int) -> dict[str, str]:
    """The environment variables through which thread pools are told their size."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
    return {name: str(threads) for name in names}


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with thread counts and, where the peer knows one, the instruction set limit."""
    extra = ISA_ENV.get(settings.isa, {}).get(settings.peer, {})
    if settings.peer == OURS:
        paths = (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))
        extra = {**extra, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {**os.environ, **thread_environment(settings.threads), **extra}


def command_line(python: str, settings: Settings) -> list[str]:
    """How the worker is started."""
    if settings.peer == OURS:
        return [sys.executable, "-m", "sepcompile.bench.worker"]
    return [python, "-c", BOOTSTRAP.format(package=str(PACKAGE), bench=str(PACKAGE / "bench"))]


class PeerProcess:
    """One peer in its own process. It is stopped (SIGSTOP) except during a call of :meth:`ask`."""

    def __init__(self, settings: Settings, python: str, argv: list[str] | None = None) -> None:
        self.settings = settings
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            argv or command_line(python, settings),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=environment(settings), start_new_session=True,
        )  # fmt: skip
        self._buffer = b""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, timeout: float = 120.0) -> Any:
        """Import the library; returns the adapter's PeerInfo as a dict."""
        return self.ask("start", {"settings": self.settings.to_json()}, timeout)

    def ask(self, verb: str, arguments: Mapping[str, Any] | None = None, timeout: float = 300.0) -> Any:
        """Wake the peer, send one command, wait for the answer and stop the peer again."""
        self._signal(signal.SIGCONT)
        try:
            reply = self._exchange({"do": verb, **(arguments or {})}, time.monotonic() + timeout)
        finally:
            self._stop()
        if reply.get("ok"):
            return reply["answer"]
        kind = UnsupportedLayerError if reply.get("kind") == "unsupported" else PeerError
        raise kind(reply.get("reason", "no reason given"))

    def close(self) -> None:
        """End the process, however it is; its helpers (compilers of a JIT) are in its own session and end with it."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._log.close()

    def log_tail(self, size: int = 600) -> str:
        """The end of what the process wrote to standard error."""
        length = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, length - size))
        return self._log.read().decode("utf-8", "replace").strip()

    def _stop(self) -> None:
        """Stop the peer and wait until it stands still, or is found dead: the next one must not overlap with it."""
        self._signal(signal.SIGSTOP)
        if self._process.returncode is None:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _exchange(self, command: dict[str, Any], deadline: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerError(self._death()) from error
        line = self._read_line(deadline)
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            self.close()
            raise PeerError(f"the process answered {line[:200]!r}") from error
        return reply

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise PeerError("no answer in time; the process was ended")
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    raise PeerError(self._death())
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> str:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the process died ({how}): {self.log_tail(300) or 'nothing on standard error'}"
