"""Writes a folder of files whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: a live writer is then not told from a dead one, so nothing is cleaned
    fcntl = None  # type: ignore[assignment]

_MARK = ".sepcompile-"
_MODE = 0o775  # never for all to write, whatever the umask: loaders refuse that
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_folder(target: Path, files: Mapping[str, bytes], may_replace: Callable[[Path], bool]) -> None:
    """Makes the folder ``target`` hold ``files`` (relative paths) and nothing else.

    They are written to a folder beside it that takes its place in one step, so that readers find the old files or the
    new ones, also when this process is killed. What killed writers left is removed by the next write.
    Raises ``FileExistsError`` where ``target`` exists and ``may_replace(target)`` is false, and ``OSError``.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse(target, may_replace)
    prefix, mode = f"{_MARK}{target.name[:100]}-", _MODE & ~_umask()
    _clean(target.parent, prefix)
    with _locked_folder(target.parent, prefix) as folder:
        for path, data in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            _write(place, data, mode & 0o666)
        for place in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            place.chmod(mode)
            _sync(place)
        _refuse(target, may_replace)
        _put(folder, target)
        _sync(target.parent)


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A new folder among the system's temporary files, removed at the end; also those that killed processes left."""
    parent, prefix = Path(tempfile.gettempdir()), f"{_MARK}{name}-"
    with contextlib.suppress(OSError):
        _clean(parent, prefix)
    with _locked_folder(parent, prefix) as folder:
        yield folder


def _write(place: Path, data: bytes, mode: int) -> None:
    """A file that is on the disk when this returns: after a power cut no renamed folder may hold empty files."""
    place.write_bytes(data)
    with place.open("r+b") as file:
        os.fsync(file.fileno())
    place.chmod(mode)


def _sync(folder: Path) -> None:
    """The names in a folder are on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse(target: Path, may_replace: Callable[[Path], bool]) -> None:
    if target.exists() and not may_replace(target):
        raise FileExistsError(errno.EEXIST, "exists and is not an artifact", str(target))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder, locked while it is written, and removed (with whatever it then holds) at the end."""
    folder, lock = Path(), None
    while lock is None:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _lock(folder)  # None: another writer took it for a dead one's before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a folder that exists; None where another process holds it or it is gone. The lock ends with the process."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _clean(parent: Path, prefix: str) -> None:
    """Removes what killed writers left: folders with our prefix that nobody has locked."""
    if fcntl is None:
        return
    for stale in parent.iterdir():
        lock = _lock(stale) if stale.name.startswith(prefix) else None
        if lock is not None:
            shutil.rmtree(stale, ignore_errors=True)
            os.close(lock)


def _put(folder: Path, target: Path) -> None:
    """Renames ``folder`` to ``target``; where that exists, the two change places."""
    if not target.exists():
        with contextlib.suppress(OSError):  # or it has appeared meanwhile
            folder.rename(target)
            return
    if _exchange(folder, target):
        return
    # Without an atomic exchange (not Linux, or a file system that lacks it): two renames, undone where one fails.
    aside = Path(tempfile.mkdtemp(prefix=f"{_MARK}{target.name[:100]}-", dir=target.parent))
    target.rename(aside / "old")
    try:
        folder.rename(target)
    except OSError:
        (aside / "old").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
