"""The course of a search, read from the journal: what each proposal was worth, in the order of their measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sepcompile.tuning.runner import Measurement


@dataclass(frozen=True)
class CurvePoint:
    """One proposal. ratio: its time over the default's, or None where it failed; best: the least that was accepted."""

    record: Mapping[str, object]
    ratio: float | None
    failure: str
    best: float


@dataclass(frozen=True)
class Curve:
    """All proposals for one program, target and machine, and the default record that they are compared with."""

    default: Mapping[str, object]
    points: tuple[CurvePoint, ...]


def read_curve(outcomes: Mapping[str, Measurement], threads: int = 1) -> Curve | None:
    """The course of all searches for calls with ``threads`` threads; None where there was none.

    ``outcomes`` are ``Database.outcomes``. A measurement's ratio is to the incumbent of its time; ratios to the default
    follow from the incumbents' own.
    """
    default: dict[str, object] | None = None
    scores: dict[str, float] = {}
    proposals: dict[str, tuple[Mapping[str, object], float | None, str]] = {}
    accepted = set()
    for text, outcome in outcomes.items():
        candidate, incumbent, count, purpose, _ = json.loads(text)
        if purpose == "baseline" and count == threads:
            default = candidate
            scores[_name(candidate)] = 1.0
        base = scores.get(_name(incumbent))
        if count != threads or purpose not in ("search", "confirm") or base is None:
            continue
        name = _name(candidate)
        ratio = outcome.comparison.ratio * base if outcome.ok else None
        if ratio is not None:
            scores[name] = ratio
        if purpose == "search" or ratio is not None:
            proposals[name] = (candidate, ratio, str(outcome.failure or ""))
        if purpose == "confirm" and ratio is not None and outcome.comparison.faster:
            accepted.add(name)
    if default is None or not proposals:
        return None
    # A confirmation comes some measurements after its proposal, but belongs to it.
    best = 1.0
    points = []
    for name, (record, ratio, failure) in proposals.items():
        best = min(best, ratio) if name in accepted and ratio is not None else best
        points.append(CurvePoint(record, ratio, failure, best))
    return Curve(default, tuple(points))


def _name(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)
