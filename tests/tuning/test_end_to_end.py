"""Tuning as its users meet it: the command line, the Python function, and what compile makes of the result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sepcompile
from sepcompile import targets
from sepcompile.autotune import read_duration, tune
from sepcompile.codegen.variant import read_program
from sepcompile.errors import ConfigError, TargetError, TuningError
from sepcompile.frontend import read_layer
from sepcompile.schedule import choose
from sepcompile.tuning.database import Database, TunedRecord
from sepcompile.tuning.device.requests import describe
from sepcompile.tuning.families import build_space
from sepcompile.tuning.key import make_key
from sepcompile.tuning.runner import MachineIdentity

LAYER = {
    "class_name": "SeparableConv2D",
    "config": {"name": "tiny", "filters": 16, "kernel_size": 3, "padding": "same", "activation": "relu"},
}
SHAPE = (None, 16, 16, 16)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "tuning.sqlite3"


def cli(tmp_path, *arguments, **options):
    (tmp_path / "layer.json").write_text(json.dumps(LAYER))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    return subprocess.run(
        [sys.executable, "-c", "from sepcompile.cli import main; main()", *map(str, arguments)],
        cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=300, check=False, **options,
    )  # fmt: skip


def store(path, target="native", machine=None, versions=None, schedule=None, **values):
    """Put a result into a database as if it had been measured; returns its record and the heuristic's."""
    layer = read_layer(LAYER, input_shape=SHAPE, keras_version="3")
    form, _ = read_program(layer.program, layer.weights)
    chosen = targets.get_target(target)
    default = choose(form, chosen)
    other = replace(default, k_unroll=1 if default.k_unroll > 1 else 2)
    key = make_key(form, chosen, None, machine or MachineIdentity.of(describe()))
    key = replace(key, versions=versions or key.versions)
    knobs = other.to_json() if schedule is None else schedule
    record = TunedRecord("tiny", chosen.name, knobs, 0.8, 0.01, 8e-6, 1e-5, 1, 64, True)
    with Database(path) as database:
        database.add_record(key, replace(record, **values))
    return other, default


def compiled(path, tmp_path, **arguments):
    artifact = sepcompile.compile(LAYER, SHAPE, output=tmp_path / "artifact", database=path, **arguments)
    return sepcompile.inspect(artifact.path).variants[0], artifact


# ---- searching -----------------------------------------------------------------------------------------------------


def test_a_search_from_one_end_to_the_other(database, cache, tmp_path):
    states = []
    report = tune(LAYER, SHAPE, trials=4, database=database, cache=cache, progress=lambda *state: states.append(state))
    (found,) = report.tuned
    assert len(found.search.trials) == 4
    assert found.record.seconds > 0
    assert report.ratio == found.record.ratio <= 1.0
    assert found.overhead_s < found.wall_s
    assert found.compile_s > 0
    assert {name for name, _ in states} == {"tiny"}
    with Database(database) as stored:
        (record,) = stored.records()
        assert record.trials == 4
        assert record.key is not None
        # The baseline and the candidates, and what was confirmed.
        assert len(stored.outcomes(record.key)) >= 5
    again = tune(LAYER, SHAPE, trials=4, database=database, cache=cache)
    assert again.tuned[0].fresh == 0
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule == dict(found.record.schedule)
    assert variant.schedule_source.startswith("tuned:" if found.record.gain else "heuristic")
    layer = artifact.load()
    assert layer.selftest().passed


def test_candidates_that_cannot_be_right_are_refused(database):
    with pytest.raises(TargetError, match="measured on such"):
        tune(LAYER, SHAPE, target="cortex-a72", database=database)
    with pytest.raises(TuningError, match="trials=0"):
        tune(LAYER, SHAPE, trials=0, database=database)
    with pytest.raises(TuningError, match="expected local, ssh"):
        tune(LAYER, SHAPE, runner="telnet://there", database=database)
    with pytest.raises(ConfigError, match="database"):
        tune(LAYER, SHAPE, database=False)
    assert not database.exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), (" 2h ", 7200), (3, 3), (None, None)]
)
def test_durations(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "1d", "soon", True, "1e9", "nan"])
def test_what_is_no_duration(text):
    with pytest.raises(ConfigError, match="time_budget"):
        read_duration(text)


# ---- compile -------------------------------------------------------------------------------------------------------


def test_compile_takes_the_stored_record_and_says_so(database, tmp_path):
    other, default = store(database)
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule == other.to_json() != default.to_json()
    assert variant.schedule_source.startswith("tuned: 0.800 of the heuristic's time, 64 trials, 1 thread, ")
    x = np.random.default_rng(0).standard_normal((2, *SHAPE[1:])).astype(np.float32)
    plain = sepcompile.compile(LAYER, SHAPE, output=tmp_path / "plain", database=False)
    assert sepcompile.inspect(plain.path).variants[0].schedule_source == "heuristic"
    np.testing.assert_allclose(artifact.load()(x), plain.load()(x), rtol=1e-5, atol=1e-5)


def test_a_given_schedule_comes_first(database, tmp_path):
    _, default = store(database)
    variant, _ = compiled(database, tmp_path, schedule=default)
    assert (variant.schedule, variant.schedule_source) == (default.to_json(), "given")


def test_no_gain_means_the_heuristics(database, tmp_path):
    store(database, gain=False, ratio=1.0)
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule_source == "heuristic"
    assert not any("tun" in note for note in artifact.notes)


@pytest.mark.parametrize("foreign", [{"machine": MachineIdentity("x86_64", "other", "0", 64)}, {"versions": "older"}])
def test_results_of_others_are_not_used_and_that_is_said(database, tmp_path, foreign):
    store(database, **foreign)
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule_source == "heuristic"
    assert any("another version or machine" in note for note in artifact.notes)


@pytest.mark.parametrize("schedule", [{"rows": 1}, {"lanes": 3}, {}, {"rows": 10**9}])
def test_a_stale_record_is_skipped_with_a_note(database, tmp_path, schedule):
    layer = read_layer(LAYER, input_shape=SHAPE, keras_version="3")
    form, _ = read_program(layer.program, layer.weights)
    default = choose(form, targets.get_target("native")).to_json()
    store(database, schedule=schedule if len(schedule) < 1 or "lanes" not in schedule else {**default, **schedule})
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule_source == "heuristic"
    assert any("skipped: schedule:" in note for note in artifact.notes)


def test_the_next_best_stands_in_for_a_stale_one(database, tmp_path):
    store(database, schedule={"rows": 1}, ratio=0.1)
    other, _ = store(database)
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule == other.to_json()
    assert any("skipped" in note for note in artifact.notes)


def test_a_device_that_cannot_run_here_may_have_measured(database, tmp_path):
    pi = MachineIdentity("aarch64", "Cortex-A72", "0", 4)
    other, _ = store(database, target="cortex-a72", machine=pi)
    variant, _ = compiled(database, tmp_path, target="cortex-a72")
    assert variant.schedule == other.to_json()
    assert "Cortex-A72, 4 CPUs" in variant.schedule_source


def test_a_damaged_database_is_told_and_not_in_the_way(database, tmp_path):
    database.write_bytes(b"no database at all" * 100)
    variant, artifact = compiled(database, tmp_path)
    assert variant.schedule_source == "heuristic"
    assert any("tuning database" in note for note in artifact.notes)


def test_a_models_blocks_are_tuned_one_by_one(database, cache, monkeypatch):
    monkeypatch.setattr("sepcompile.models.read_blocks", lambda *arguments: [block("one"), block("two")])
    monkeypatch.setattr("sepcompile.frontend.model.is_model", lambda layer: True)
    report = tune(object(), trials=1, time_budget="30s", database=database, cache=cache)
    assert [item.record.layer for item in report.tuned] == ["one", "two"]
    assert str(report).count("\n") == 1


def block(name):
    return read_layer({**LAYER, "config": {**LAYER["config"], "name": name}}, input_shape=SHAPE, keras_version="3")


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command(tmp_path):
    file = tmp_path / "t.sqlite3"
    done = cli(tmp_path, "tune", "layer.json", "--input-shape", "None,16,16,16", "--trials", 3, "--database", file)
    assert done.returncode == 0, done.stderr
    assert "measuring the heuristic's schedule" in done.stderr
    assert "[3/3] tiny" in done.stderr
    assert str(file) in done.stdout
    listed = cli(tmp_path, "tune", "--list", "--database", file, "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["layer"], row["trials"], row["current"]) == ("tiny", 3, True)
    assert "tiny" in cli(tmp_path, "tune", "--list", "--database", file).stdout
    assert cli(tmp_path, "tune", "--export", "r.json", "--database", file).stdout == "wrote 1 results to r.json\n"
    added = cli(tmp_path, "tune", "--import", "r.json", "--database", "other.sqlite3", "--json")
    assert json.loads(added.stdout) == {"added": 1, "known": 0}
    assert "removed 0" in cli(tmp_path, "tune", "--prune", "--database", file).stdout
    again = cli(
        tmp_path, "tune", "layer.json", "--input-shape", "None,16,16,16", "--trials", 3, "--database", file, "--json"
    )
    report = json.loads(again.stdout)
    assert report["layers"][0]["measured_now"] == 0
    assert [trial["trial"] for trial in report["layers"][0]["history"]] == [1, 2, 3]
    assert set(report["layers"][0]["history"][0]["schedule"]) == set(report["layers"][0]["schedule"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing LAYER"),
        (("layer.json", "--list"), "exclude each other"),
        (("--list", "--prune"), "exclude each other"),
        (("layer.json", "--input-shape", "None,16,16,16", "--time-budget", "soon"), "time_budget='soon'"),
        (("layer.json", "--input-shape", "None,16,16,16", "--runner", "ftp://x"), "runner 'ftp://x'"),
        (("layer.json", "--input-shape", "None,16,16,16", "--target", "cortex-a72"), "cortex-a72"),
        (("layer.json", "--input-shape", "None,16,16,16", "--target", "cuda-sm_90"), "cuda"),
        (("layer.json", "--input-shape", "None,16,16,16", "--database", "/proc/x/t"), "cannot be written"),
        (("--import", "layer.json"), "tune --export"),
        (("layer.json", "--trials", "0"), "--trials"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    done = cli(tmp_path, "tune", *arguments)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sepcompile: error: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_an_interrupt_keeps_what_was_found(tmp_path):
    """^C in the middle: the result so far is stored, and the next search begins there."""
    (tmp_path / "layer.json").write_text(json.dumps(LAYER))
    file = tmp_path / "t.sqlite3"
    arguments = ["tune", "layer.json", "--input-shape", "None,16,16,16", "--trials", "500", "--database", str(file)]
    code = "from sepcompile.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[") and int(line[1:].partition("/")[0]) >= 3:
            break
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted after" in output
    with Database(file) as database:
        (record,) = database.records()
        assert 3 <= record.trials < 500
    time.sleep(0.5)
    listed = subprocess.run(["ps", "-eo", "pgid="], capture_output=True, text=True, check=False).stdout.split()
    assert str(process.pid) not in listed


def test_every_member_of_the_tiny_space_is_right(tmp_path):
    """A few members, far apart: what they compute is what the heuristic's computes, bit by bit on whole numbers."""
    layer = read_layer(LAYER, input_shape=SHAPE, keras_version="3")
    form, _ = read_program(layer.program, layer.weights)
    space = build_space(form, targets.get_target("native"), None)
    rng = np.random.default_rng(3)
    weights = {
        "depthwise_kernel": rng.integers(-3, 4, (3, 3, 16, 1)),
        "pointwise_kernel": rng.integers(-3, 4, (1, 1, 16, 16)),
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()} | {
        "bias": np.arange(16, dtype=np.float32)
    }
    x = rng.integers(-3, 4, (1, *SHAPE[1:])).astype(np.float32)
    expected = None
    for number in range(5):
        record = space.record(space.random(rng)) if number else space.default
        artifact = sepcompile.compile(
            LAYER, SHAPE, weights=weights, schedule=record, output=tmp_path / str(number), cache=tmp_path
        )
        y = artifact.load(threads=1)(x)
        expected = y if expected is None else expected
        np.testing.assert_array_equal(y, expected)
