"""The ``.keras`` archive: a zip with metadata.json, config.json and model.weights.h5.

Only these three members are read, into memory; nothing is unpacked to disk. What they say they hold is bounded before
anything is decompressed, and compared with what comes.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcompile.errors import ConfigError
from sepcompile.frontend import jsontext
from sepcompile.frontend.values import show

MAX_BYTES = 2**31
MAX_MEMBERS = 10_000
# Keras stores without compression. Weights hardly compress, so a member that grows more than this is a bomb.
MAX_RATIO = 100
FLOOR = 64 * 2**20
_METADATA, _CONFIG, _WEIGHTS = "metadata.json", "config.json", "model.weights.h5"


@dataclass(frozen=True)
class Archive:
    """What a ``.keras`` file holds; ``weights`` is None where it has none."""

    version: str | None
    config: Any
    weights: bytes | None


def read_archive(path: Path) -> Archive:
    """Raises ``ConfigError`` for a file that is not a sound ``.keras`` archive."""
    try:
        if not path.is_file():  # a pipe would never end
            raise ConfigError(f"{path}: not a file; expected a .keras archive")
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path.name)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as cause:
        if isinstance(cause, ConfigError):
            raise
        raise ConfigError(f"{path.name}: not a readable .keras archive: {show(str(cause))}") from None


def _read(archive: zipfile.ZipFile, label: str) -> Archive:
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ConfigError(f"{label}: {len(infos)} members; expected at most {MAX_MEMBERS}")
    for info in infos:
        _check_name(info.filename, label)
        if info.filename in members:
            raise ConfigError(f"{label}: two members named {show(info.filename)}")
        members[info.filename] = info
    if _CONFIG not in members:
        raise ConfigError(f"{label}: no {_CONFIG} in it; it has {show(sorted(members))}")
    metadata: object = {}
    if _METADATA in members:
        metadata = _parsed(archive, members[_METADATA], label)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    config = _parsed(archive, members[_CONFIG], label)
    weights = _member(archive, members[_WEIGHTS], label, MAX_BYTES) if _WEIGHTS in members else None
    return Archive(version if isinstance(version, str) else None, config, weights)


def _parsed(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> Any:
    return jsontext.parse(_member(archive, info, label, jsontext.MAX_BYTES), f"{label}/{info.filename}")


def _check_name(name: str, label: str) -> None:
    """A name that leaves the archive is refused, although nothing is unpacked: no honest file has one."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or (len(name) > 1 and name[1] == ":"):
        raise ConfigError(f"{label}: member {show(name)} leaves the archive")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str, most: int) -> bytes:
    what = f"{label}: {info.filename}"
    if info.flag_bits & 1:
        raise ConfigError(f"{what} is encrypted")
    if info.file_size > most:
        raise ConfigError(f"{what} declares {info.file_size} bytes; expected at most {most}")
    if info.file_size > max(FLOOR, MAX_RATIO * info.compress_size):
        raise ConfigError(
            f"{what} declares {info.file_size} bytes from {info.compress_size} compressed ones; "
            f"expected at most {MAX_RATIO} times as many"
        )
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ConfigError(f"{what} declares {info.file_size} bytes, holds {len(data)}")
    return data
