"""Requests from standard input: artifacts that are sent here, and measurements of them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PROTOCOL = 1
MOST_FILES, MOST_BYTES = 1000, 1 << 30
PATH = re.compile(r"(?!(?:.*/)?\.\.?(?:/|$))[A-Za-z0-9._+-]{1,100}(?:/[A-Za-z0-9._+-]{1,100}){0,5}", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)

Json = dict[str, Any]


class Session:
    """The artifacts that were sent here, in ``folder``, and what is done with them."""

    def __init__(self, folder: Path, source: BinaryIO) -> None:
        self.folder, self.source = folder, source

    def answer(self, request: Json) -> Json:
        """Do what one request says. Raises ``ValueError``, ``KeyError`` or ``OSError`` where that cannot be done."""
        size = int(request.get("bytes", 0))
        if not 0 <= size <= MOST_BYTES:
            raise ValueError(f"{size} bytes; at most {MOST_BYTES} are taken")
        data = self.source.read(size)
        if len(data) < size:
            raise EOFError("the input ended")
        verbs = {"put": self.put, "drop": self.drop, "measure": self.measure}
        return verbs[request["do"]](request, data)

    def put(self, request: Json, data: bytes) -> Json:
        """Keep an artifact."""
        place = self._place(request["name"])
        shutil.rmtree(place, ignore_errors=True)
        try:
            unpack(data, place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return {}

    def drop(self, request: Json, data: bytes) -> Json:
        """Forget an artifact."""
        shutil.rmtree(self._place(request["name"]), ignore_errors=True)
        return {}

    def measure(self, request: Json, data: bytes) -> Json:
        """A result per lane (``race.Race``), and how busy the machine has been."""
        from . import race  # needs NumPy

        places = [Path(lane) if os.path.isabs(lane) else self._place(lane) for lane in request["lanes"]]  # noqa: PTH117
        for lane, place in zip(request["lanes"], places):  # noqa: B905
            if not place.is_dir():
                raise ValueError(f"no artifact {lane!r} here")
        settings = race.Request(request)
        if not settings.watch:
            race.die_with(os.getppid(), signal.SIGTERM)
        lanes = race.Race([str(place) for place in places], settings, str(self.folder / "output.npy")).run()
        return {"lanes": lanes, "load": list(os.getloadavg())}

    def _place(self, name: Any) -> Path:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"name {name!r:.100}; expected letters, digits, _ and -")
        return self.folder / "artifacts" / name


def unpack(data: bytes, place: Path) -> None:
    """Write an archive's files below ``place``: plain files of plain names, each once."""
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if not member.isreg() or member.issparse() or not PATH.fullmatch(member.name) or member.name in seen:
                raise ValueError(f"archive: {member.name!r:.200} is not a plain file of its own")
            seen.add(member.name)
            if len(seen) > MOST_FILES:
                raise ValueError(f"archive: more than {MOST_FILES} files")
            content = archive.extractfile(member)
            target = place / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content.read() if content else b"")


def describe() -> Json:
    """This machine in words. ``cpu``, ``features`` and ``cpus`` tell two kinds of machine apart, wherever they are."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    rows = {key.strip(): " ".join(value.split()) for key, _, value in (r.partition(":") for r in text.splitlines())}
    parts = [rows.get("model name", "")]
    parts += [f"{key} {rows[key]}" for key in ("CPU implementer", "CPU part", "CPU revision", "uarch") if key in rows]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n "))
    return {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "numpy": _numpy_version(),
        "system": platform.system(),
        "machine": _architecture(),
        "cpu": ", ".join(filter(None, parts)) or platform.machine(),
        "features": (rows.get("flags") or rows.get("Features") or rows.get("isa", "").replace("_", " ")).split(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }


def _numpy_version() -> str:
    """NumPy's version; empty where it is not installed."""
    if importlib.util.find_spec("numpy") is None:
        return ""
    import numpy

    return numpy.__version__


def _architecture() -> str:
    """As variants name it; a 32-bit Python on a 64-bit kernel counts as what it can load."""
    name = platform.machine().lower()
    if name in ("x86_64", "amd64"):
        return "x86_64" if sys.maxsize > 2**32 else "i686"
    if name in ("aarch64", "arm64") or name.startswith("armv"):
        return "aarch64" if sys.maxsize > 2**32 else "armv7"
    return name


def serve(say: Callable[[Json], None], source: BinaryIO) -> None:
    """Answer requests until the input ends."""
    from .race import GoneError

    with tempfile.TemporaryDirectory(prefix="sepcompile-") as folder:
        session = Session(Path(folder), source)
        for line in iter(source.readline, b""):
            try:
                say({"ok": True, **session.answer(json.loads(line))})
            except (EOFError, GoneError, BrokenPipeError):
                return
            except (OSError, ValueError, KeyError, TypeError, tarfile.TarError, MemoryError) as error:
                say({"ok": False, "reason": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Say what this machine is, then serve; without NumPy, only the first."""
    # Where these files came by standard input, requests behind them may already be in this buffer.
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints is no answer

    def say(answer: Json) -> None:
        sink.write(json.dumps(answer) + "\n")
        sink.flush()

    os.umask(0o077)  # loaders refuse what others may write to
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C in the tuner's terminal is for the tuner, which hangs up
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # with the folder removed
    machine = describe()
    if machine["numpy"]:
        from .gpu import gpu_name

        machine["gpu"] = gpu_name()
    with contextlib.suppress(BrokenPipeError):
        say(machine)
        if machine["numpy"]:
            serve(say, source)
