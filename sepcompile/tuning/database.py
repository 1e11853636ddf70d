"""The tuning database: one SQLite file in WAL mode, to which rows are only added.

``measurements`` is the journal: each outcome is there before the next is asked for, so that a killed search goes on
where it was. ``records`` are results: a schedule and what it gained. Both belong to a row of ``keys``, whose four texts
are compared whole. Any number of processes may write at a time.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sepcompile.errors import TuningError
from sepcompile.tuning.key import Key
from sepcompile.tuning.runner import Measurement

FORMAT = 1
_BUSY_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL, program TEXT NOT NULL, target TEXT NOT NULL, versions TEXT NOT NULL,
    machine TEXT NOT NULL, UNIQUE (hash, program, target, versions, machine));
CREATE TABLE IF NOT EXISTS measurements (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL REFERENCES keys, question TEXT NOT NULL, outcome TEXT NOT NULL,
    created TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS measurements_key ON measurements (key);
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL REFERENCES keys, content TEXT NOT NULL, created TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_key ON records (key);
"""
_KEY = "hash = ? AND program = ? AND target = ? AND versions = ? AND machine = ?"


@dataclass(frozen=True)
class Question:
    """What a measurement answers: ``candidate`` beside ``incumbent``. Records as JSON objects; ``threads`` of one call;
    ``purpose`` tells a first look from a confirmation, ``attempt`` one confirmation from the next."""

    candidate: Mapping[str, object]
    incumbent: Mapping[str, object]
    threads: int
    purpose: str = "search"
    attempt: int = 0

    @property
    def text(self) -> str:
        """The question as text; equal questions give equal texts."""
        values = [self.candidate, self.incumbent, self.threads, self.purpose, self.attempt]
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class TunedRecord:
    """A result. ratio: the schedule's time over the default's, ``noise`` how far that may be off. seconds: of one call.

    ``layer`` and ``target`` are names for people. ``gain`` tells whether the schedule beat the default by more than the
    noise; where not, ``schedule`` is the default's own.
    """

    layer: str
    target: str
    schedule: Mapping[str, object]
    ratio: float
    noise: float
    seconds: float
    default_seconds: float
    threads: int
    trials: int
    gain: bool
    key: Key | None = None
    created: str = ""

    def to_json(self) -> dict[str, object]:
        """The result without its key, as a JSON object."""
        names = [name for name in _RECORD_KINDS if name != "schedule"]
        return {"schedule": dict(self.schedule), **{name: getattr(self, name) for name in names}}

    @staticmethod
    def from_json(data: object, key: Key | None = None, created: str = "") -> TunedRecord:
        """Read ``to_json``'s object back; raises ``TuningError`` for anything else."""
        if not isinstance(data, dict) or set(data) != set(_RECORD_KINDS):
            raise TuningError(f"tuning record {data!r:.200}; expected an object with {', '.join(_RECORD_KINDS)}")
        for name, kinds in _RECORD_KINDS.items():
            if type(data[name]) not in kinds:
                raise TuningError(f"tuning record: {name}={data[name]!r:.80} must be {kinds[0].__name__}")
        if not all(0 < data[name] < 1e9 for name in ("ratio", "seconds", "default_seconds")):
            raise TuningError(f"tuning record: ratio and seconds must be above 0, got {data['ratio']!r:.80}")
        if any(type(value) not in (int, bool, str) for value in data["schedule"].values()):
            raise TuningError("tuning record: a knob of its schedule must be a whole number, a flag or a name")
        return TunedRecord(key=key, created=created, **data)


_RECORD_KINDS: dict[str, tuple[type, ...]] = {
    "layer": (str,), "target": (str,), "schedule": (dict,), "ratio": (float, int), "noise": (float, int),
    "seconds": (float, int), "default_seconds": (float, int), "threads": (int,), "trials": (int,), "gain": (bool,),
}  # fmt: skip


class Database:
    """The database in the file ``path``, which is made where it does not exist.

    ``read_only``: nothing is made or written, and a file that does not exist is empty. Every method raises
    ``TuningError`` for a file that cannot be read or written, or that is no tuning database.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self._read_only = path, read_only
        self._lock = threading.Lock()
        with self._errors():
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(path, read_only)
        try:
            with self._errors():
                self._prepare()
        except TuningError:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # ---- the journal ----

    def outcomes(self, key: Key) -> dict[str, Measurement]:
        """Every outcome under ``key`` by its question's text; the latest where a question was asked again."""
        with self._errors():
            rows = self._connection.execute(
                f"SELECT question, outcome FROM measurements JOIN keys ON keys.id = key WHERE {_KEY}"
                " ORDER BY measurements.id",
                _values(key),
            ).fetchall()
        found = {}
        for question, outcome in rows:
            with contextlib.suppress(TuningError, ValueError):  # a row that some other program has damaged
                found[question] = Measurement.from_json(_object(outcome))
        return found

    def add_outcome(self, key: Key, question: Question, outcome: Measurement) -> None:
        """Keep what was measured. It is on the disk when this returns."""
        self._insert(
            "measurements (key, question, outcome, created)", key, question.text, json.dumps(outcome.to_json())
        )

    # ---- results ----

    def records(self, key: Key | None = None) -> list[TunedRecord]:
        """All results, or those under exactly ``key``; the largest gain first."""
        query = "SELECT program, target, versions, machine, content, created FROM records JOIN keys ON keys.id = key"
        with self._errors():
            if key is None:
                rows = self._connection.execute(query).fetchall()
            else:
                rows = self._connection.execute(f"{query} WHERE {_KEY}", _values(key)).fetchall()
        found = []
        for *texts, content, created in rows:
            with contextlib.suppress(TuningError, ValueError):
                found.append(TunedRecord.from_json(_object(content), Key(*map(str, texts)), str(created)))
        return sorted(found, key=lambda record: (not record.gain, record.ratio, record.created))

    def add_record(self, key: Key, record: TunedRecord) -> None:
        """Keep a result."""
        self._insert("records (key, content, created)", key, json.dumps(record.to_json(), sort_keys=True))

    def prune(self, versions: str) -> int:
        """Remove everything of versions other than ``versions``; returns how many results that were."""
        old = "SELECT id FROM keys WHERE versions != ?"
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            count = self._connection.execute(f"DELETE FROM records WHERE key IN ({old})", (versions,)).rowcount
            self._connection.execute(f"DELETE FROM measurements WHERE key IN ({old})", (versions,))
            self._connection.execute("DELETE FROM keys WHERE versions != ?", (versions,))
        return int(count)

    def merge(self, record: TunedRecord) -> bool:
        """Add a result from elsewhere under its own key, unless it is there; returns whether it was added."""
        assert record.key is not None
        content = json.dumps(record.to_json(), sort_keys=True)
        if any(json.dumps(known.to_json(), sort_keys=True) == content for known in self.records(record.key)):
            return False
        self.add_record(record.key, record)
        return True

    # ---- the file ----

    def _insert(self, columns: str, key: Key, *values: str) -> None:
        names = columns.partition("(")[2].rstrip(")").split(", ")
        marks = ", ".join("?" * len(names))
        with self._lock, self._errors(), self._connection:
            # At once, so that a second writer waits here and not with half a transaction.
            self._connection.execute("BEGIN IMMEDIATE")
            text = "INSERT OR IGNORE INTO keys (hash, program, target, versions, machine) VALUES (?, ?, ?, ?, ?)"
            self._connection.execute(text, _values(key))
            (number,) = self._connection.execute(f"SELECT id FROM keys WHERE {_KEY}", _values(key)).fetchone()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._connection.execute(f"INSERT INTO {columns} VALUES ({marks})", (number, *values, now))

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            raise TuningError(f"tuning database {self.path}: format {version}; this version reads format {FORMAT}")
        if self._read_only:
            self._connection.execute("SELECT 1 FROM keys, measurements, records LIMIT 1")
            return
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split(";")[:-1]:
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            word = "read" if self._read_only else "written"
            raise TuningError(
                f"tuning database {self.path}: cannot be {word}: {error}; --database PATH names another file"
            ) from error


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Autocommit: transactions are begun where they are needed. One search uses its connection from several threads."""
    if not read_only:
        return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    if not path.exists():
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.executescript(_SCHEMA)
        return connection
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM keys LIMIT 1")
    except sqlite3.OperationalError:
        # In a folder that cannot be written there is no room for WAL's own files.
        connection.close()
        uri = f"{path.absolute().as_uri()}?immutable=1"
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
    return connection


def _values(key: Key) -> tuple[str, ...]:
    return key.hash, key.program, key.target, key.versions, key.machine


def _object(text: object) -> dict[str, object]:
    value = json.loads(str(text))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
