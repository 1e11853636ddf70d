"""The space of records: every member can be applied, the heuristic's is one, and moving about stays inside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sepcompile.errors import ScheduleError, TuningError
from sepcompile.schedule import choose
from sepcompile.schedule.limits import check_record
from sepcompile.targets import get_target
from sepcompile.tuning.cost import Work
from sepcompile.tuning.cpu_space import check_worth
from sepcompile.tuning.families import build_space
from tests.tuning.forms import LAYERS, TARGETS, form_of, target

CASES = [(layer, name) for layer in LAYERS for name in TARGETS]


def sample(space, rng, count=150):
    return [space.random(rng) for _ in range(count)]


@pytest.mark.parametrize(("layer", "name"), CASES)
def test_every_member_can_be_applied(layer, name):
    form, chosen = form_of(layer), target(name)
    space = build_space(form, chosen, None)
    for point in sample(space, np.random.default_rng(0)):
        record = space.record(point)
        check_record(record, form, chosen.machine)
        assert type(record).from_json(record.to_json()) == record
        assert space.find(record) == point
        assert 0 < space.cost(point) < float("inf")


@pytest.mark.parametrize(("layer", "name"), CASES)
def test_the_heuristics_record_is_a_member(layer, name):
    form, chosen = form_of(layer), target(name)
    space = build_space(form, chosen, None)
    assert space.default == choose(form, chosen)
    assert space.record(space.start) == space.default
    assert space.allowed(space.start)


@pytest.mark.parametrize("layer", LAYERS)
def test_moves_stay_inside(layer):
    space = build_space(form_of(layer), target("x86-64-v3"), None)
    rng = np.random.default_rng(1)
    for point in sample(space, rng, 10):
        other = space.random(rng)
        moved = [*space.neighbours(point), space.mutate(point, rng), space.cross(point, other, rng)]
        assert all(space.allowed(found) for found in moved)
        assert all(sum(a != b for a, b in zip(point, near, strict=True)) == 1 for near in space.neighbours(point))


def test_choices_of_an_axis_are_distinct():
    for layer in LAYERS:
        for axis in build_space(form_of(layer), target("x86-64-v4"), None).axes:
            assert len({tuple(sorted(choice.items())) for choice in axis.choices}) == len(axis.choices) > 1
            assert len(axis.places) == len(axis.choices)


def test_rules_name_what_is_wasted():
    form, chosen = form_of("separable"), target("x86-64-v4")
    default = choose(form, chosen)
    wasteful = type(default)(**{**default.to_json(), "rows": 15, "split": False})
    assert Work(wasteful, form).waste > 1
    with pytest.raises(ScheduleError, match=r"tasks cannot be shared|times what is needed"):
        check_worth(wasteful, default, form, chosen.machine)


def test_points_lists_exactly_the_allowed():
    space = build_space(form_of("row"), target("x86-64-v2"), None)
    found = list(space.points())
    assert len(found) == len(set(found)) <= space.size
    assert space.start in found
    assert all(space.allowed(point) for point in found)


def test_a_family_without_a_space_is_named():
    unknown = dataclasses.replace(get_target("x86-64-v2"), family="abacus")
    with pytest.raises(TuningError, match="abacus"):
        build_space(form_of("separable"), unknown, None)
