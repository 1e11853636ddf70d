"""Results as a JSON file, to carry from one database to another. The journal stays behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from sepcompile.errors import TuningError
from sepcompile.tuning.database import Database, TunedRecord
from sepcompile.tuning.key import Key

_NAME, _VERSION = "sepcompile-tuning", 1
_MOST_BYTES = 256 << 20


def export_records(records: Iterable[TunedRecord], path: Path) -> int:
    """Write ``records`` with their whole keys to ``path``; returns how many. Raises ``TuningError``."""
    rows = [
        {"key": asdict(record.key), "created": record.created, "record": record.to_json()}
        for record in records
        if record.key is not None
    ]
    text = json.dumps({"format": _NAME, "version": _VERSION, "records": rows}, indent=1, sort_keys=True)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise TuningError(f"{path}: cannot be written: {error.strerror or error}") from error
    return len(rows)


def import_records(path: Path, database: Database) -> tuple[int, int]:
    """Add the results in the file ``path``; returns how many were new and how many were already there.

    Nothing is added where any of the file is wrong. Raises ``TuningError``.
    """
    records = read_records(path)
    added = sum(database.merge(record) for record in records)
    return added, len(records) - added


def read_records(path: Path) -> list[TunedRecord]:
    """The results in the file ``path``, every field checked. Raises ``TuningError``."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TuningError(f"{path}: over {_MOST_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise TuningError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _NAME:
        raise TuningError(f"{path}: not a file that `sepcompile tune --export` wrote")
    if document.get("version") != _VERSION or not isinstance(document.get("records"), list):
        raise TuningError(f"{path}: version {document.get('version')!r:.40}; this version reads {_VERSION}")
    return [_read(row, f"{path}: records[{index}]") for index, row in enumerate(document["records"])]


def _read(row: object, where: str) -> TunedRecord:
    names = ("program", "target", "versions", "machine")
    key = row.get("key") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(key, dict) or set(key) != set(names):
        raise TuningError(f"{where}: expected an object with key ({', '.join(names)}), created and record")
    if not all(isinstance(value, str) for value in (*key.values(), row.get("created"))):
        raise TuningError(f"{where}: the parts of key and created must be texts")
    try:
        return TunedRecord.from_json(row.get("record"), Key(**key), row["created"])
    except TuningError as error:
        raise TuningError(f"{where}: {error}") from error
