"""Measures on this machine: the device program as a process beside ours, which forks one process per artifact."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sepcompile.errors import TuningError
from sepcompile.tuning.remote import START, Channel, ChannelLostError, most_seconds
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings, read_answer

PLACE = "this machine"
_START_S = 60.0
_END_S = 3.0
_TRIES = 3


class LocalRunner(Runner):
    """Measures one candidate at a time. ``quiet(threads)`` is entered while it does: for keeping CPUs free."""

    def __init__(self, quiet: Callable[[int], AbstractContextManager[object]] = lambda threads: nullcontext()) -> None:
        self.quiet = quiet
        self._channel: _FolderChannel | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sepcompile-measure")

    @property
    def capacity(self) -> int:
        """One: two at a time would disturb each other."""
        return 1

    def machine(self) -> MachineIdentity:
        """This machine. Raises ``TuningError`` where the device program does not start."""
        try:
            return self._open().machine
        except ChannelLostError as error:
            raise TuningError(f"{PLACE}: the measuring program does not start: {error}") from error

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        """See ``Runner``."""
        return self._thread.submit(self._measure, candidate, incumbent, settings)

    def close(self) -> None:
        """End the process, and with it what it measures."""
        with self._lock:
            self._closed = True
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._thread.shutdown(cancel_futures=True)

    def _open(self) -> _FolderChannel:
        with self._lock:
            if self._closed:
                raise TuningError(f"{PLACE}: the runner is closed")
            if self._channel is None:
                self._channel = _FolderChannel([sys.executable, "-c", START], PLACE, _START_S)
            return self._channel

    def _measure(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Measurement:
        start, reason = time.monotonic(), ""
        for _ in range(_TRIES):
            channel = self._open()
            try:
                with self.quiet(settings.threads):
                    answer = channel.measure(candidate, incumbent, settings)
                return read_answer(answer, time.monotonic() - start, PLACE)
            except ChannelLostError as error:  # the program itself ended, which no artifact can bring about
                reason = str(error)
                with self._lock:
                    self._channel = None
                channel.close()
        return Measurement.failed("lost", reason, time.monotonic() - start, PLACE)


class _FolderChannel(Channel):
    """The device program reads the artifacts where they are."""

    def measure(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> dict[str, Any]:
        folders = (str(artifact.folder.resolve()) for artifact in (incumbent, candidate))
        return self._ask(json.dumps(settings.request(*folders)).encode() + b"\n", most_seconds(settings))

    def close(self) -> None:
        """Its input ends, upon which it removes its folder and goes."""
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        super().close()
