"""The device program on another machine: how it gets there, and how one talks to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from sepcompile.errors import TuningError
from sepcompile.runtime.errors import ArtifactError
from sepcompile.runtime.manifest import read_manifest
from sepcompile.tuning.runner import DEVICE_PROGRAM, Candidate, MachineIdentity, Settings

START = (
    "import json, pathlib, runpy, sys, tempfile\n"
    "with tempfile.TemporaryDirectory(prefix='sepcompile-') as folder:\n"
    "    for name, text in json.loads(sys.stdin.buffer.readline()).items():\n"
    "        pathlib.Path(folder, name).write_text(text, encoding='utf-8')\n"
    "    runpy.run_path(folder, run_name='__main__')\n"
)
"""What ``python -c`` is given on a device: reads ``program()`` from standard input and runs it."""


class DeviceAccessError(TuningError):
    """A device cannot be used. ``kind`` is unreachable, host key, login, python, numpy, machine or architecture."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ChannelLostError(Exception):
    """The other end of a channel is gone, or no longer answers. ``status`` is the exit status of what led there."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@cache
def program() -> bytes:
    """The device program as one line of JSON, to be written to ``START`` before any request."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(DEVICE_PROGRAM.glob("*.py"))}
    return json.dumps(texts).encode() + b"\n"


def pack(candidate: Candidate) -> bytes:
    """A tar archive of the artifact's files. The same files give the same bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in candidate.files().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def put_request(candidate: Candidate) -> bytes:
    """The request that sends an artifact; it is known by its digest there."""
    data = pack(candidate)
    return json.dumps({"do": "put", "name": candidate.digest, "bytes": len(data)}).encode() + b"\n" + data


def measure_request(candidate: Candidate, incumbent: Candidate, settings: Settings, **more: object) -> bytes:
    """The request that measures two artifacts which were sent before."""
    return json.dumps({**settings.request(incumbent.digest, candidate.digest), **more}).encode() + b"\n"


def most_seconds(settings: Settings) -> float:
    """After how long a measurement that has not been answered will not be: every step is bounded on the device."""
    return 60.0 + 4 * settings.timeout_s + 10 * settings.rounds * settings.round_seconds


def read_hello(line: bytes, place: str) -> MachineIdentity:
    """The device program's first line. Raises ``DeviceAccessError``."""
    try:
        hello = json.loads(line)
    except ValueError as error:
        raise DeviceAccessError("python", f"{place}: Python does not start there: it says {line!r:.200}") from error
    if not isinstance(hello, dict) or "numpy" not in hello:
        raise DeviceAccessError("python", f"{place}: Python does not start there: it says {line!r:.200}")
    if not hello["numpy"]:
        python = str(hello.get("python", ""))[:40]
        raise DeviceAccessError(
            "numpy", f"{place}: its Python {python} has no NumPy; install it there (pip install numpy)"
        )
    return MachineIdentity.of(hello)


def check_architecture(candidate: Candidate, machine: MachineIdentity, place: str) -> None:
    """Raises ``DeviceAccessError`` where no variant of the artifact is for the architecture of ``machine``.

    Every candidate of a search is for the same target: no measurement could succeed.
    """
    try:
        arches = {variant.arch for variant in read_manifest(candidate.folder).variants if variant.cuda is None}
    except ArtifactError:
        return  # the device's loader will say what is wrong with it
    if arches and machine.arch not in arches:
        wanted = ", ".join(sorted(arches))
        raise DeviceAccessError(
            "architecture", f"{place} is {machine.arch} ({machine.cpu}); the target is for {wanted}"
        )


class Channel:
    """A process whose input and output lead to the device program.

    It knows which artifacts lie there; the oldest are dropped once there are more than ``keep``.
    """

    def __init__(self, command: Sequence[str], place: str, timeout_s: float, keep: int = 8) -> None:
        self.place, self._keep = place, keep
        self._there: list[str] = []
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        try:
            end = time.monotonic() + timeout_s
            self._write(program(), end)
            self.machine = read_hello(self._read_line(end), place)
        except BaseException:
            self.close()
            raise

    def measure(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> dict[str, Any]:
        """The device program's answer; artifacts that are not there are sent first. Raises ``ChannelLostError``."""
        needed = {incumbent.digest: incumbent, candidate.digest: candidate}
        for digest, artifact in needed.items():
            if digest not in self._there:
                self._ask(put_request(artifact), 600.0)
                self._there.append(digest)
        for digest in [digest for digest in self._there if digest not in needed][: -self._keep]:
            self._ask(json.dumps({"do": "drop", "name": digest}).encode() + b"\n", 60.0)
            self._there.remove(digest)
        return self._ask(measure_request(candidate, incumbent, settings), most_seconds(settings))

    def close(self) -> None:
        """End the channel; the device program ends with its input. May be called twice, and from another thread."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def errors(self) -> str:
        """The end of what the process wrote to its standard error."""
        with contextlib.suppress(ValueError, OSError):
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 2000))
            return self._errors.read().decode(errors="replace").strip()
        return ""

    def _ask(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        self._write(request, end)
        line = self._read_line(end)
        try:
            answer: dict[str, Any] = json.loads(line)
            done = answer.pop("ok")
        except (ValueError, KeyError, AttributeError) as error:
            raise ChannelLostError(f"it answered {line!r:.200}") from error
        if done is not True:
            raise TuningError(f"{self.place}: {answer.get('reason', 'refused')}"[:500])
        return answer

    def _write(self, data: bytes, end: float) -> None:
        view = memoryview(data)
        try:
            while view:
                if not select.select([], [self._input], [], max(0.0, end - time.monotonic()))[1]:
                    raise ChannelLostError("it takes nothing any more")
                view = view[os.write(self._input, view[: 1 << 16]) :]
        except OSError as error:
            raise self._lost() from error

    def _read_line(self, end: float) -> bytes:
        while b"\n" not in self._buffer:
            if not select.select([self._output], [], [], max(0.0, end - time.monotonic()))[0]:
                raise ChannelLostError("it does not answer any more")
            piece = os.read(self._output, 1 << 16)
            if not piece:
                raise self._lost()
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self) -> ChannelLostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        last = self.errors().splitlines()[-1:] or ["no message"]
        return ChannelLostError(f"the connection ended: {last[0]}", self._process.poll())
