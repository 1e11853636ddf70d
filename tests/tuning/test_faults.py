"""What a search must survive: candidates that misbehave, kills, full disks, files that cannot be written, noise."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

import sepcompile
from sepcompile.tuning.local import LocalRunner
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings
from tests.tuning import misdeeds

ROOT = Path(__file__).parents[2]
KILLABLE = str(Path(__file__).with_name("killable.py"))
STRICT = Settings(rounds=4, round_seconds=0.001, timeout_s=4.0, memory_bytes=512 << 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels, shared by the searches of this file."""
    return tmp_path_factory.mktemp("kernels")


# ---- candidates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local() -> Iterator[LocalRunner]:
    with LocalRunner() as runner:
        yield runner


@pytest.mark.parametrize("name", misdeeds.MISDEEDS)
def test_a_misdeed_is_a_failure_with_its_reason(local: LocalRunner, good: Path, tmp_path: Path, name: str) -> None:
    snippets, kind = misdeeds.MISDEEDS[name]
    bad = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "bad", **snippets))
    found = local.measure(bad, misdeeds.candidate(good), STRICT)
    assert found.failure is not None, name
    assert found.failure.kind == kind, found.failure
    assert found.failure.reason


def test_an_incumbent_that_fails_is_not_the_candidates_fault(local: LocalRunner, good: Path, tmp_path: Path) -> None:
    bad = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "bad", BEFORE_RUN="abort()"))
    found = local.measure(misdeeds.candidate(good), bad, STRICT)
    assert found.failure is not None and found.failure.kind == "lost"


def test_the_measuring_program_itself_may_be_killed(good: Path) -> None:
    right = misdeeds.candidate(good)
    with LocalRunner() as runner:
        runner.machine()
        assert runner._channel is not None
        future = runner.submit(right, right, Settings(rounds=40, round_seconds=0.02))
        time.sleep(0.7)
        os.kill(runner._channel._process.pid, signal.SIGKILL)
        assert future.result(60).ok


def test_artifacts_leave_nothing_behind(good: Path, tmp_path: Path) -> None:
    """A candidate that starts processes, and one that hangs, are gone when the measurement is over."""
    mark = f"{os.getpid()}.{tmp_path.name}"
    child = f'if (!fork()) {{ execl("/bin/sh", "sh", "-c", "sleep 1000; : {mark}", (char*)0); }}'
    bad = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "bad", BEFORE_RUN=f"{child} for (;;) pause()"))
    with LocalRunner() as runner:
        assert not runner.measure(bad, misdeeds.candidate(good), STRICT).ok
        left = [entry for entry in Path("/proc").glob("[0-9]*") if mark.encode() in _command_line(entry)]
    assert not left


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


# ---- whole searches ------------------------------------------------------------------------------------------------


class Saboteur(Runner):
    """Measures here, but changes each candidate before: ``change(good, folder)`` returns another folder, or ``good``.

    A record is changed once; the default's, which ``change`` sees first, like any other.
    """

    def __init__(self, change: Callable[[Path, Path], Path], folder: Path, settings: Settings | None = None) -> None:
        self._inner, self._change, self._folder, self._settings = LocalRunner(), change, folder, settings
        self._changed: dict[str, Candidate | None] = {}

    @property
    def capacity(self) -> int:
        return 1

    def machine(self) -> MachineIdentity:
        return self._inner.machine()

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        return self._inner.submit(self._of(candidate), self._of(incumbent), self._settings or settings)

    def close(self) -> None:
        self._inner.close()

    def _of(self, artifact: Candidate) -> Candidate:
        if artifact.digest not in self._changed:
            folder = self._change(artifact.folder, self._folder / artifact.digest)
            same = folder == artifact.folder
            self._changed[artifact.digest] = None if same else Candidate.of(folder, artifact.record)
        return self._changed[artifact.digest] or artifact


def test_a_search_goes_on_past_misdeeds(cache: Path, tmp_path: Path) -> None:
    names = ["segfault", "hang", "write behind the output", "wrong element", "huge arena"]
    asked: list[str] = []

    def change(good: Path, folder: Path) -> Path:
        name = "" if len(asked) % 2 == 0 else names[len(asked) // 2 % len(names)]
        asked.append(name)
        return misdeeds.spoil(good, folder, **misdeeds.MISDEEDS[name][0]) if name else good

    database = tmp_path / "tuning.sqlite3"
    with Saboteur(change, tmp_path, STRICT) as runner:
        report = sepcompile.tune(
            misdeeds.CONFIG, misdeeds.SHAPE, trials=10, database=database, cache=cache, runner=runner
        )
    trials = report.tuned[0].search.trials
    kinds = {trial.failure.kind for trial in trials if trial.failure is not None}
    assert len(trials) == 10 and kinds == {misdeeds.MISDEEDS[name][1] for name in names}
    assert sum(trial.failure is None for trial in trials) >= 4
    rows = [json.loads(outcome) for (outcome,) in _rows(database, "SELECT outcome FROM measurements")]
    reasons = [row["failure"]["reason"] for row in rows if row["failure"]]
    assert any("SIGSEGV" in reason for reason in reasons) and any("times the tolerance" in reason for reason in reasons)


def test_a_device_that_slows_down_gives_no_wrong_winner(cache: Path, tmp_path: Path) -> None:
    """Every candidate has a time of its own, which triples in the middle of the search: ratios stay what they are."""
    truth: dict[str, float] = {}
    slow = tmp_path / "slow"

    def change(good: Path, folder: Path) -> Path:
        spread = hashlib.sha256(folder.name.encode()).digest()[0] / 255
        micros = 300.0 if not truth else 200.0 + 200.0 * spread
        record = json.loads((good / "manifest.json").read_text())["variants"][0]["schedule"]
        truth[json.dumps(record, sort_keys=True)] = micros
        if len(truth) == 8:
            threading.Timer(0.1, slow.touch).start()  # while one of the first candidates is being timed
        return misdeeds.slowing(good, folder, micros, slow)

    with Saboteur(change, tmp_path) as runner:
        report = sepcompile.tune(
            misdeeds.CONFIG, misdeeds.SHAPE, trials=16, database=tmp_path / "t.sqlite3", cache=cache, runner=runner
        )
    assert slow.exists()
    found = report.tuned[0]
    true_ratio = truth[json.dumps(found.search.schedule.to_json(), sort_keys=True)] / 300.0
    assert found.record.ratio == pytest.approx(true_ratio, abs=0.05)
    measured = {json.dumps(t.record, sort_keys=True): t.ratio for t in found.search.trials if t.ratio is not None}
    best = min(truth[name] for name in measured) / 300.0
    assert true_ratio <= best + 0.05  # nothing that was tried is much better
    for name, ratio in measured.items():
        assert ratio == pytest.approx(truth[name] / 300.0, rel=0.15)


# ---- kills ---------------------------------------------------------------------------------------------------------


class Killed:
    """Searches in processes of their own that are killed at random moments and started again until they are done."""

    def __init__(self, folder: Path, cache: Path, trials: int) -> None:
        self.folder, self.cache, self.trials = folder, cache, trials
        self.random = random.Random(11)
        self.kills = 0

    def command(self, database: Path, seed: int) -> list[str]:
        return [sys.executable, KILLABLE, str(database), str(self.cache), str(seed), str(self.trials)]

    def reference(self, seed: int) -> list[str]:
        """The questions of a search that nobody disturbs."""
        database = self.folder / f"undisturbed-{seed}.sqlite3"
        subprocess.run(self.command(database, seed), check=True, stdout=subprocess.DEVNULL)
        return questions(database)

    def search(self, seed: int, most_kills: int) -> None:
        """One search, killed until it is done or the kills are used up; then it must be what it would have been."""
        expected = self.reference(seed)
        database, kills, done = self.folder / f"killed-{seed}.sqlite3", 0, False
        while not done:
            before = len(questions(database))
            measured, done = self._run(database, seed, kill=kills < most_kills)
            kills += not done
            stored = questions(database)
            assert len(stored) - before >= measured - 1, "more than one measurement was lost"
            assert len(set(stored)) == len(stored), "something was measured twice"
        assert sorted(questions(database)) == sorted(expected)
        self.kills += kills
        print(f"seed {seed}: {kills} kills, {len(expected)} measurements")

    def _run(self, database: Path, seed: int, kill: bool) -> tuple[int, bool]:
        """How many measurements were made, and whether the search came to its end.

        The random moment is one of the start, or one soon after a random number of measurements.
        """
        lines = self.random.randrange(3) if kill else 1 << 30
        delay = self.random.uniform(0.0, 0.12 if lines else 3.0)
        with subprocess.Popen(self.command(database, seed), stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout is not None
            seen = sum(1 for _ in itertools.islice(process.stdout, lines))
            try:
                output, _ = process.communicate(timeout=delay if kill else 600.0)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return seen + output.count(b"measured"), process.returncode == 0


def questions(database: Path) -> list[str]:
    """What the journal has answers to."""
    return [question for (question,) in _rows(database, "SELECT question FROM measurements")]


def _rows(database: Path, query: str) -> list[tuple[str, ...]]:
    if not database.exists():
        return []
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'measurements'").fetchone():
            return []  # killed before it had tables
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_killed_searches_go_on_where_they_were(cache: Path, tmp_path: Path) -> None:
    killed = Killed(tmp_path, cache, trials=16)
    killed.search(seed=1, most_kills=10)
    assert killed.kills >= 8


@pytest.mark.slow
def test_two_hundred_kills(cache: Path, tmp_path: Path) -> None:
    killed = Killed(tmp_path, cache, trials=48)
    seed = 100
    while killed.kills < 200:
        killed.search(seed, most_kills=200 - killed.kills)
        seed += 1


# ---- the machine ---------------------------------------------------------------------------------------------------


def tune_command(tmp_path: Path, database: Path, cache: Path, trials: int = 4) -> list[str]:
    layer = tmp_path / "layer.json"
    layer.write_text(json.dumps(misdeeds.CONFIG))
    code = (
        "import sys, sepcompile.autotune as a, platformdirs\n"
        f"platformdirs.user_cache_path = lambda *x, **y: __import__('pathlib').Path({str(cache)!r})\n"
        "from sepcompile.cli import main; main(sys.argv[1:])\n"
    )
    shape = ",".join(map(str, misdeeds.SHAPE))
    arguments = ["tune", str(layer), "--input-shape", shape, "--trials", str(trials), "--database", str(database)]
    return [sys.executable, "-c", code, *arguments]


def run_tune(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, **options)  # type: ignore[call-overload]
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sepcompile: error: ") and all(word in last for word in words), done.stderr


def test_a_database_that_outgrows_its_disk_is_whole_afterwards(cache: Path, tmp_path: Path) -> None:
    """The limit of a file's size stands in for a full disk: writing fails in the same place, in the same way."""
    database = tmp_path / "tuning.sqlite3"
    command = [*tune_command(tmp_path, database, cache), "--seed", "5"]
    first = run_tune(command)
    assert first.returncode == 0, first.stderr
    before = questions(database)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (database.stat().st_size + 20_000,) * 2)

    # A compiled library is larger than that: what is left to run comes from the journal and the kernels' cache.
    refused(run_tune([*command, "--fresh"], preexec_fn=limit), "tuning database", "cannot be written")
    assert set(before) <= set(questions(database))
    again = run_tune(command)
    assert again.returncode == 0, again.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs leave to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_under_the_database(small_disk: Path, cache: Path, tmp_path: Path) -> None:
    database = small_disk / "tuning.sqlite3"
    command = tune_command(tmp_path, database, cache)
    first = run_tune(command)
    assert first.returncode == 0, first.stderr
    before = questions(database)
    fill(small_disk)
    refused(run_tune([*command, "--fresh"]), "tuning database", "cannot be written", "full")
    (small_disk / "ballast").unlink()
    assert set(before) <= set(questions(database))
    assert run_tune(command).returncode == 0


def test_a_full_disk_under_the_candidates(small_disk: Path, cache: Path, tmp_path: Path) -> None:
    command = tune_command(tmp_path, tmp_path / "tuning.sqlite3", cache)
    fill(small_disk, but=100_000)  # some candidates fit, and no more
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(small_disk)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2
    assert "No space left" in done.stderr or "the disk is full" in done.stderr, done.stderr


def fill(disk: Path, but: int = 0) -> None:
    """Leave no block free, ``but`` so many bytes."""
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while but == 0 or shutil.disk_usage(disk).free > but:
            file.write(bytes(4096))


def drop_privileges() -> None:
    """In a child that is root: it may no longer write what the permissions forbid (capabilities(7), 1 and 2)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: gone with the next exec


def test_a_read_only_database_is_refused_before_any_work(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    database = folder / "tuning.sqlite3"
    command = tune_command(tmp_path, database, cache)
    assert run_tune(command).returncode == 0
    before = questions(database)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    append = ["sh", "-c", ': >> "$0"', str(database)]
    probe = subprocess.run(append, preexec_fn=drop_privileges, capture_output=True, check=False)
    if probe.returncode == 0:
        pytest.skip("file permissions do not bind here")
    start = time.monotonic()
    refused(run_tune(command, preexec_fn=drop_privileges), "tuning database", "--database PATH")
    assert time.monotonic() - start < 60
    folder.chmod(0o755)
    assert questions(database) == before
    # What is stored there can still be used.
    folder.chmod(0o555)
    listed = run_tune([*command[:3], "tune", "--list", "--database", str(database)], preexec_fn=drop_privileges)
    assert listed.returncode == 0 and "sep" in listed.stdout, listed.stderr


def test_what_is_no_database_is_refused(cache: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.sqlite3"
    junk.write_bytes(b"not a database at all " * 100)
    refused(run_tune(tune_command(tmp_path, junk, cache)), "tuning database", "junk.sqlite3")
    refused(run_tune(tune_command(tmp_path, tmp_path, cache)), "tuning database")
