"""What the tuner makes of measurements: gains are confirmed, noise is not, and a search goes on where it was ended."""

from __future__ import annotations

import pytest

from sepcompile.errors import TuningError
from sepcompile.tuning.database import Database
from sepcompile.tuning.families import build_space
from tests.tuning.forms import form_of, target
from tests.tuning.stand_ins import KEY, Builder, Device, name_of, search
from tests.tuning.test_search import Truth


@pytest.fixture(scope="module")
def space():
    return build_space(form_of("depthwise"), target("x86-64-v4"), None)


@pytest.fixture(scope="module")
def truth(space):
    found = Truth(space, 2)
    known = {name_of(space.record(point)): found(point) for point in space.points()}
    return lambda record, threads=1: 1e-4 * known[name_of(record)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuning.sqlite3"


def test_it_finds_what_is_faster(space, truth, path):
    result, _ = search(space, Device(truth), path, trials=48)
    best = min(truth(space.record(point)) for point in space.points())
    assert truth(result.schedule) <= 1.03 * best
    assert result.gain
    assert result.comparison.ratio == pytest.approx(truth(result.schedule) / truth(space.default), rel=0.02)
    assert result.seconds == pytest.approx(truth(result.schedule), rel=0.1)
    assert len(result.trials) == 48
    assert not result.interrupted


def test_nothing_but_noise_is_no_gain(space, path):
    """Records that are all alike, on a machine that is not quiet at all."""
    for seed in range(3):
        result, _ = search(space, Device(lambda record, threads: 1e-4, noise=0.08), path, trials=32, seed=seed)
        assert not result.gain
        assert result.schedule == space.default
        assert result.comparison.ratio == 1.0


def test_a_machine_that_slows_down_changes_no_winner(space, truth, path):
    """Three times slower from the middle on: both sides of every ratio are."""
    calm, _ = search(space, Device(truth), path, trials=32, recall=False)
    hit, _ = search(
        space, Device(truth, slowness=lambda number: 1.0 if number < 16 else 3.0), path, trials=32, recall=False
    )
    assert truth(hit.schedule) <= 1.02 * truth(calm.schedule)
    assert hit.comparison.ratio == pytest.approx(truth(hit.schedule) / truth(space.default), rel=0.02)


def test_a_record_that_is_slower_with_all_threads_is_left_out(space, truth, path):
    """Faster alone, but it cannot be shared."""

    def seconds(record, threads):
        return truth(record) if threads == 1 or record == space.default.to_json() else 2e-4

    result, _ = search(space, Device(seconds), path, trials=24, all_threads=2)
    assert not result.gain
    assert any("slower with 2 threads" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["wrong", "crash", "hang", "memory", "load"])
def test_what_fails_never_wins(space, truth, path, kind):
    """The fastest half of all fails; the search goes on and takes the best of the rest."""
    middle = sorted(truth(space.record(point)) for point in space.points())[space.size // 4]
    default = space.default.to_json()
    failing = lambda record: kind if truth(record) < middle and record != default else None  # noqa: E731
    result, _ = search(space, Device(truth, failing=failing), path, trials=40)
    failed = [trial for trial in result.trials if trial.failure is not None]
    assert failed
    assert all(trial.failure.kind == kind and trial.ratio is None for trial in failed)
    assert result.schedule == space.default or truth(result.schedule) >= middle


def test_what_does_not_compile_is_recorded(space, truth, path):
    builder = Builder(breaks=lambda record: record.tile_columns == 4 and record != space.default)
    result, _ = search(space, Device(truth), path, trials=24, builder=builder)
    assert {trial.failure.kind for trial in result.trials if trial.failure} <= {"compile"}
    with Database(path) as database:
        kept = [outcome.failure for outcome in database.outcomes(KEY).values() if outcome.failure]
    assert all(failure.kind == "compile" and failure.reason == "LLVM said no" for failure in kept)


def test_a_default_that_fails_is_told(space, truth, path):
    with pytest.raises(TuningError, match="heuristic's own schedule fails: crash"):
        search(space, Device(truth, failing=lambda record: "crash"), path, trials=4)


def test_measurements_that_get_lost_are_asked_for_again_and_never_kept(space, truth, path):
    with pytest.raises(TuningError, match="lost, 3 times"):
        search(space, Device(truth, failing=lambda record: "lost"), path, trials=4)
    with Database(path) as database:
        assert database.outcomes(KEY) == {}


def test_a_seed_gives_the_same_search(space, truth, path, tmp_path):
    one, _ = search(space, Device(truth), path, trials=32, seed=5)
    two, _ = search(space, Device(truth), tmp_path / "other.sqlite3", trials=32, seed=5)
    three, _ = search(space, Device(truth), tmp_path / "third.sqlite3", trials=32, seed=6)
    assert [trial.record for trial in one.trials] == [trial.record for trial in two.trials]
    assert [trial.record for trial in one.trials] != [trial.record for trial in three.trials]


def test_a_finished_search_is_only_read_again(space, truth, path):
    first, _ = search(space, Device(truth), path, trials=24)
    device = Device(truth)
    again, lab = search(space, device, path, trials=24)
    assert device.asked == []
    assert lab.fresh == 0
    assert again.schedule == first.schedule
    assert [trial.record for trial in again.trials] == [trial.record for trial in first.trials]
    more = Device(truth)
    longer, _ = search(space, more, path, trials=32)
    assert [trial.record for trial in longer.trials[:24]] == [trial.record for trial in first.trials]
    assert len(more.asked) < len(longer.trials)


@pytest.mark.parametrize("stop", [2, 7, 15, 23])
def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(space, truth, path, tmp_path, stop):
    """^C anywhere; then the whole again. Nothing that was answered is asked twice."""
    whole, _ = search(space, Device(truth), tmp_path / "whole.sqlite3", trials=24)
    broken = Device(truth, most=stop)
    try:
        cut, _ = search(space, broken, path, trials=24)
        assert cut.interrupted
    except KeyboardInterrupt:
        pass  # in the verdict, which asks as well
    with Database(path) as database:
        kept = len(database.outcomes(KEY))
    assert kept >= stop - 1
    device = Device(truth)
    resumed, lab = search(space, device, path, trials=24)
    assert [trial.record for trial in resumed.trials] == [trial.record for trial in whole.trials]
    assert resumed.schedule == whole.schedule
    with Database(path) as database:
        assert lab.fresh + kept == len(database.outcomes(KEY))


def test_the_time_budget_ends_it(space, truth, path):
    result, _ = search(space, Device(truth), path, trials=10_000, time_budget_s=0.5)
    assert 0 < len(result.trials) < 10_000
    assert any("time budget" in note for note in result.notes)


def test_progress_is_told(space, truth, path):
    states = []
    search(space, Device(truth), path, trials=12, progress=states.append)
    assert [state.stage for state in states] == ["baseline", *["search"] * 12, "final"]
    assert [state.trial for state in states[1:-1]] == list(range(1, 13))
    bests = [state.best for state in states]
    assert bests == sorted(bests, reverse=True)
    assert all(state.left_s >= 0 and state.trials == 12 for state in states)
