"""The files of an artifact: found inside its folder, of the right size and digest, or refused."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ArtifactError

_CHUNK = 1 << 20
PATH_PATTERN = r"(?!(?:.*/)?\.\.?(?:/|$))[A-Za-z0-9._+-]{1,100}(?:/[A-Za-z0-9._+-]{1,100}){0,5}"
"""Relative, with forward slashes, without ``.`` and ``..``."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file."""

    path: str
    nbytes: int
    sha256: str


def read_file(root: Path, entry: FileEntry) -> bytes:
    """The content of a file, checked against its entry. Raises ``ArtifactError``."""
    chunks: list[bytes] = []
    _scan(root, entry, chunks)
    return b"".join(chunks)


def check_file(root: Path, entry: FileEntry) -> bytes:
    """Checks a file against its entry; returns its first bytes. Raises ``ArtifactError``."""
    return _scan(root, entry, None)


def read_bounded(root: Path, name: str, most: int) -> bytes:
    """A file of at most ``most`` bytes, such as the manifest, which no digest covers. Raises ``ArtifactError``."""
    descriptor = _open(root, name)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ArtifactError(f"{root / name}: more than {most} bytes")
    return data


def check_private(root: Path, paths: Iterable[str]) -> None:
    """Raises ``ArtifactError`` where every user of the machine may write to the artifact's folder or a file in it.

    Between check and use, somebody else could then exchange what is loaded. Only POSIX has such permissions.
    """
    if os.name != "posix":
        return
    places = {root}
    for path in paths:
        place = root / path
        places |= {place, *tuple(place.parents)[: len(Path(path).parts) - 1]}  # Python 3.9 cannot slice parents
    for place in sorted(places):
        try:
            mode = os.lstat(place).st_mode
        except OSError:
            continue  # whoever opens it says what is wrong
        if mode & stat.S_IWOTH and not stat.S_ISLNK(mode):
            raise ArtifactError(f"{place}: every user of this machine may write to it; chmod -R o-w {root}")


def _scan(root: Path, entry: FileEntry, chunks: list[bytes] | None) -> bytes:
    where = root / entry.path
    digest, first, left = hashlib.sha256(), b"", entry.nbytes
    with os.fdopen(_open(root, entry.path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry.nbytes:
            raise ArtifactError(f"{where}: {size} bytes; the manifest says {entry.nbytes}")
        while left > 0:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise ArtifactError(f"{where}: ends {left} bytes early")
            first = first or chunk
            left -= len(chunk)
            digest.update(chunk)
            if chunks is not None:
                chunks.append(chunk)
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{where}: its SHA-256 is {digest.hexdigest()}; the manifest says {entry.sha256}")
    return first


def _open(root: Path, path: str) -> int:
    """Opens a regular file below ``root`` without following a symbolic link anywhere on the way from it."""
    place = root
    try:
        for part in Path(path).parts[:-1]:
            place = place / part
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise ArtifactError(f"{place}: not a plain folder")
        place = root / path
        # Not blocking: opening a FIFO would wait for a writer.
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        reason = "a symbolic link" if place.is_symlink() else error.strerror
        raise ArtifactError(f"{place}: cannot be opened: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{place}: not a regular file")
    return descriptor
