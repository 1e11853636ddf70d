"""A Dask scheduler and workers as processes of this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LABEL = "test-board"


@dataclass
class Cluster:
    """What runs. ``tls``: --tls-... options of every process; ``folder`` takes logs and the workers' files."""

    folder: Path
    tls: tuple[str, ...] = ()
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{'tls' if self.tls else 'tcp'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"dask://127.0.0.1:{self.port}?label={LABEL}"

    def start_scheduler(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        protocol = ("--protocol", "tls") if self.tls else ()
        self._start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", str(self.port), *protocol)
        self._await("scheduler", "Scheduler at")

    def add_worker(self, name: str, resources: str = f"{LABEL}=1") -> None:
        options = ["--name", name, "--nthreads", "2", "--no-nanny", "--local-directory", str(self.folder / name)]
        self._start(name, "worker", self.address, *options, "--resources", resources)
        self._await(name, "Registered to")

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard", *self.tls]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)

    def _await(self, name: str, word: str) -> None:
        deadline = time.monotonic() + 60
        while word not in (text := (self.folder / f"{name}.log").read_text()):
            assert self.processes[name].poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)


@contextlib.contextmanager
def cluster(folder: Path, *names: str, tls: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A scheduler with a worker of each name, all gone at the end."""
    found = Cluster(folder, tls)
    try:
        found.start_scheduler()
        for name in names:
            found.add_worker(name)
        yield found
    finally:
        for process in found.processes.values():
            process.kill()
        for process in found.processes.values():
            process.wait()
