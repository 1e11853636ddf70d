"""The database: whole keys, several writers, crashes, damage, and results of others."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sepcompile.errors import TuningError
from sepcompile.tuning.database import Database, Question, TunedRecord
from sepcompile.tuning.exchange import export_records, import_records
from sepcompile.tuning.key import Key, current_versions
from sepcompile.tuning.runner import Measurement

ROOT = Path(__file__).resolve().parents[2]
KEY = Key("program", "target", "versions", "machine")
OUTCOME = Measurement((1e-6, 2e-6), (2e-6, 2e-6), None, 0.5, "here")
RECORD = TunedRecord(
    "sep", "x86-64-v4", {"rows": 1, "split": True, "order": "panel"}, 0.8, 0.01, 8e-6, 1e-5, 1, 64, True
)


def question(number: int = 0) -> Question:
    return Question({"rows": number}, {"rows": 1}, 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "tuning.sqlite3"


def test_what_is_stored_is_found_again(path):
    with Database(path) as database:
        database.add_outcome(KEY, question(), OUTCOME)
        database.add_outcome(KEY, question(1), Measurement.failed("crash", "SIGSEGV"))
        database.add_record(KEY, RECORD)
    with Database(path, read_only=True) as database:
        assert database.outcomes(KEY) == {
            question().text: OUTCOME,
            question(1).text: Measurement.failed("crash", "SIGSEGV"),
        }
        (found,) = database.records(KEY)
        assert replace(found, key=None, created="") == RECORD
        assert found.key == KEY


@pytest.mark.parametrize("part", ["program", "target", "versions", "machine"])
def test_every_part_of_the_key_counts(path, part):
    other = replace(KEY, **{part: "another"})
    with Database(path) as database:
        database.add_outcome(KEY, question(), OUTCOME)
        database.add_record(KEY, RECORD)
        assert database.outcomes(other) == {}
        assert database.records(other) == []


def test_a_hash_alone_finds_nothing(path, monkeypatch):
    """Two keys of one hash keep apart."""
    monkeypatch.setattr(Key, "hash", property(lambda self: "same"))
    with Database(path) as database:
        database.add_record(KEY, RECORD)
        database.add_record(replace(KEY, machine="other"), replace(RECORD, ratio=0.5))
        assert [record.ratio for record in database.records(KEY)] == [0.8]


def test_the_largest_gain_comes_first(path):
    with Database(path) as database:
        for ratio, gain in ((0.9, True), (1.0, False), (0.7, True)):
            database.add_record(KEY, replace(RECORD, ratio=ratio, gain=gain))
        assert [record.ratio for record in database.records()] == [0.7, 0.9, 1.0]


WRITER = """
    import sys
    from pathlib import Path
    from sepcompile.tuning.database import Database
    from tests.tuning.test_database import KEY, OUTCOME, RECORD, question
    start = int(sys.argv[2])
    with Database(Path(sys.argv[1])) as database:
        for number in range(start, start + int(sys.argv[3])):
            database.add_outcome(KEY, question(number), OUTCOME)
            print(number, flush=True)
        database.add_record(KEY, RECORD)
"""


def writer(path: Path, start: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(start), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_several_write_at_a_time(path):
    writers = [writer(path, 1000 * number, 25) for number in range(4)]
    assert [process.wait(120) for process in writers] == [0] * 4
    with Database(path) as database:
        assert len(database.outcomes(KEY)) == 100
        assert len(database.records(KEY)) == 4
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("SELECT count(*) FROM keys").fetchone() == (1,)


def test_what_was_said_to_be_kept_survives_a_kill(path):
    for attempt in range(3):
        process = writer(path, 10_000 * attempt, 10_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5 + 7 * attempt)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        said = [int(line) for line in (*lines, *rest.split(b"\n")) if line.strip()]
        with Database(path) as database:
            known = database.outcomes(KEY)
        assert {question(number).text for number in said} <= set(known)
        asked = range(10_000 * attempt, 10_000 * attempt + 10_000)
        mine = [number for number in asked if question(number).text in known]
        assert len(mine) <= len(said) + 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_file_is_told(path):
    Database(path).close()
    path.chmod(0o444)
    with pytest.raises(TuningError, match="cannot be written"):
        Database(path)


def test_a_place_that_cannot_be_written_is_told():
    with pytest.raises(TuningError, match=r"/proc/none/tuning.sqlite3: cannot be written.*--database"):
        Database(Path("/proc/none/tuning.sqlite3"))


def test_a_full_disk_is_told(path):
    with Database(path) as database:
        database._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(TuningError, match="full"):
            for number in range(2000):
                database.add_outcome(KEY, question(number), OUTCOME)
    with Database(path) as database:
        assert 0 < len(database.outcomes(KEY)) < 2000


@pytest.mark.parametrize("content", [b"not a database, but long enough" * 40, b"SQLite format 3\0" + bytes(4000)])
def test_damage_is_told(tmp_path, content):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    for read_only in (True, False):
        with pytest.raises(TuningError, match="damaged"):
            Database(path, read_only=read_only).records()


def test_another_format_is_refused(path):
    Database(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 7")
    with pytest.raises(TuningError, match="format 7"):
        Database(path)


def test_damaged_rows_are_passed_over(path):
    with Database(path) as database:
        database.add_record(KEY, RECORD)
        database.add_outcome(KEY, question(), OUTCOME)
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO records (key, content, created) VALUES (1, '{\"ratio\": \"fast\"}', '')")
        raw.execute("INSERT INTO records (key, content, created) VALUES (1, 'x', '')")
        columns = "measurements (key, question, outcome, created)"
        raw.execute(f"INSERT INTO {columns} VALUES (1, 'q', '{{\"seconds\": [-1]}}', '')")
    with Database(path) as database:
        assert len(database.records(KEY)) == 1
        assert len(database.outcomes(KEY)) == 1


def test_a_file_that_is_not_there_is_empty(tmp_path):
    with Database(tmp_path / "none.sqlite3", read_only=True) as database:
        assert database.records() == []
    assert not (tmp_path / "none.sqlite3").exists()


def test_prune_removes_other_versions(path):
    now = replace(KEY, versions=current_versions())
    with Database(path) as database:
        for key in (KEY, now):
            database.add_record(key, RECORD)
            database.add_outcome(key, question(), OUTCOME)
        assert database.prune(current_versions()) == 1
        assert [record.key for record in database.records()] == [now]
        assert database.outcomes(KEY) == {}
        assert len(database.outcomes(now)) == 1


# ---- files of results ----------------------------------------------------------------------------------------------


def test_results_travel(path, tmp_path):
    file = tmp_path / "results.json"
    with Database(path) as database:
        database.add_record(KEY, RECORD)
        database.add_record(KEY, replace(RECORD, ratio=0.7))
        assert export_records(database.records(), file) == 2
    with Database(tmp_path / "other.sqlite3") as other:
        assert import_records(file, other) == (2, 0)
        assert import_records(file, other) == (0, 2)
        assert [record.ratio for record in other.records(KEY)] == [0.7, 0.8]


def damaged_exports():
    good = {"schedule": {"rows": 1}, "layer": "a", "target": "t", "ratio": 0.5, "noise": 0.1, "seconds": 1.0}
    good |= {"default_seconds": 2.0, "threads": 1, "trials": 3, "gain": True}
    key = {"program": "p", "target": "t", "versions": "v", "machine": "m"}

    def file(**row):
        rows = [{"key": key, "created": "", "record": good} | row]
        return {"format": "sepcompile-tuning", "version": 1, "records": rows}

    yield "not an export", [1, 2]
    yield "another version", file() | {"version": 2}
    yield "no list", file() | {"records": 5}
    yield "no key", file(key=None)
    yield "half a key", file(key={"program": "p"})
    yield "a number for a key", file(key=key | {"machine": 3})
    for name, value in {"ratio": -1.0, "seconds": "1", "gain": 1, "trials": True, "schedule": {"rows": [1]}}.items():
        yield name, file(record=good | {name: value})
    yield "one more field", file(record=good | {"extra": 1})


@pytest.mark.parametrize(("what", "document"), list(damaged_exports()))
def test_a_wrong_file_adds_nothing(path, tmp_path, what, document):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(document))
    with Database(path) as database:
        with pytest.raises(TuningError, match="results"):
            import_records(file, database)
        assert database.records() == []


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"\\ud800"'])
def test_what_is_not_json_adds_nothing(path, tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with Database(path) as database, pytest.raises(TuningError):
        import_records(tmp_path / "r.json", database)


def test_writing_an_outcome_is_quick(path):
    with Database(path) as database:
        start = time.monotonic()
        for number in range(50):
            database.add_outcome(KEY, question(number), OUTCOME)
        assert time.monotonic() - start < 10
