"""Compile results by content: the whole key is kept and compared, its hash only finds the row.

Kernels do not depend on the weights' values, so layers of one shape share them. The cache is one SQLite file; a
damaged or unwritable one is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs

from sepcompile.codegen.plan import CompiledKernels, Launch, Plan, Step
from sepcompile.errors import ConfigError

MOST_ENTRIES = 2000
_SCHEMA = "CREATE TABLE IF NOT EXISTS results (hash TEXT, key TEXT, entry TEXT, object BLOB, PRIMARY KEY (hash, key))"


class CompileCache:
    """The cache in the file ``path``; every method succeeds, at worst without effect."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> CompiledKernels | None:
        """The result that was put under exactly ``key``."""
        with contextlib.suppress(sqlite3.Error, OSError, ValueError, KeyError, TypeError), self._open() as database:
            query = "SELECT entry, object FROM results WHERE hash = ? AND key = ?"
            row = database.execute(query, (_hash(key), key)).fetchone()
            return None if row is None else _decode(row[0], row[1])
        return None

    def put(self, key: str, result: CompiledKernels) -> None:
        """Keep ``result``; when the cache is full the oldest entries go."""
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as database, database:
            row = (_hash(key), key, _encode(result), _object(result))
            database.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", row)
            oldest = "SELECT rowid FROM results ORDER BY rowid DESC LIMIT -1 OFFSET ?"
            database.execute(f"DELETE FROM results WHERE rowid IN ({oldest})", (MOST_ENTRIES,))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=5)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_SCHEMA)
            yield database
        finally:
            database.close()


@cache
def tool_versions() -> dict[str, str]:
    """Versions of what decides the code that a compile gives."""
    return {name: _version(name) for name in ("sepcompile", "apache-tvm", "apache-tvm-ffi", "ziglang", "numpy")}


@cache
def source_digest() -> str:
    """SHA-256 of sepcompile's own code generation, so that a changed checkout never finds an old result."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for room in ("ir", "compute", "schedule", "codegen"):
        for path in sorted((root / room).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def open_cache(cache: str | os.PathLike[str] | bool, name: str) -> CompileCache | None:
    """The file ``name`` in the folder ``cache``, an argument of the public functions: True is the user's, False none.

    Raises ``ConfigError``.
    """
    if cache is False:
        return None
    if not isinstance(cache, str | os.PathLike) and cache is not True:
        raise ConfigError(f"cache={cache!r}: expected True, False or the path of a folder")
    folder = platformdirs.user_cache_path("sepcompile") if cache is True else Path(cache)
    return CompileCache(folder / name)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _encode(result: CompiledKernels) -> str:
    images = [(arch, len(image)) for arch, image in result.images]
    launches = [asdict(launch) for launch in result.launches]
    return json.dumps({**asdict(result.plan), "images": images, "launches": launches}, sort_keys=True)


def _object(result: CompiledKernels) -> bytes:
    """The object code, or a GPU's images one after the other."""
    return b"".join(image for _, image in result.images) if result.images else result.object_code


def _decode(entry: str, content: bytes) -> CompiledKernels:
    plan = json.loads(entry)
    steps = tuple(Step(**{**step, "operands": tuple(step["operands"])}) for step in plan["steps"])
    intermediates = tuple((name, nbytes) for name, nbytes in plan["intermediates"])
    launches = tuple(Launch(**{**launch, "block": tuple(launch["block"])}) for launch in plan["launches"])
    images, at = [], 0
    for arch, size in plan["images"]:
        images.append((arch, content[at : at + size]))
        at += size
    whole = Plan(steps, intermediates, plan["x_bytes"], plan["y_bytes"])
    return CompiledKernels(whole, b"" if images else content, "", "", launches, tuple(images))
