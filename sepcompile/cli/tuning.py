"""What ``tune`` shows while it searches, and prints at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sepcompile.cli import output

if TYPE_CHECKING:
    from sepcompile.autotune import TuneReport
    from sepcompile.tuning.database import TunedRecord
    from sepcompile.tuning.job import Tuned
    from sepcompile.tuning.tuner import Progress, Trial

Show = Callable[[str, "Progress"], None]
_LINE_SECONDS = 2.0


@contextlib.contextmanager
def display() -> Iterator[Show]:
    """A live display on a terminal, plain lines elsewhere; both on standard error."""
    if sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _Log().show


class _Log:
    """A line where something changed: a stage, a new best, a failure, or a while has gone by."""

    def __init__(self) -> None:
        self._best, self._stage, self._said = 0.0, "", 0.0

    def show(self, layer: str, state: Progress) -> None:
        failed = state.latest is not None and state.latest.failure is not None
        quiet = time.monotonic() - self._said < _LINE_SECONDS and state.trial < state.trials
        if quiet and not failed and state.stage == self._stage and state.best == self._best:
            return
        self._best, self._stage, self._said = state.best, state.stage, time.monotonic()
        click.echo(output.safe(f"[{state.trial}/{state.trials}] {layer}: {_words(state)}"), err=True)


def _words(state: Progress) -> str:
    if state.stage == "baseline":
        return "measuring the heuristic's schedule"
    best = f"best {output.duration(state.best_seconds)}, {state.best:.3f} of the heuristic's"
    if state.stage == "final":
        return f"{best}; measuring it once more"
    last = f"; {_trial(state.latest)}" if state.latest is not None else ""
    return f"{best}{last}; {state.left_s:.0f} s left"


def _trial(trial: Trial) -> str:
    return f"{trial.ratio:.3f}" if trial.ratio is not None else f"failed, {trial.failure}"


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.fields[layer]}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", layer="")

        def show(layer: str, state: Any) -> None:
            words = output.safe(_words(state))
            bar.update(task, layer=output.safe(layer), total=state.trials, completed=state.trial, description=words)

        yield show


# ---- results -------------------------------------------------------------------------------------------------------


def print_report(report: TuneReport) -> None:
    """The result of a search as text."""
    rows = [_row(item) for item in report.tuned]
    output.table(
        ("layer", "target", "heuristic", "tuned", "ratio", "trials", "failed"), rows, right="ratio trials failed"
    )
    for item in report.tuned:
        for note in dict.fromkeys(item.search.notes):
            output.say(f"note: {item.record.layer}: {note}")
        for failure in _failures(item):
            output.say(f"failed: {item.record.layer}: {failure}")
    wall, idle = sum(item.wall_s for item in report.tuned), sum(item.overhead_s for item in report.tuned)
    output.say(
        f"{wall:.1f} s, {100 * idle / wall:.0f} % of it neither compiling nor measuring; stored in {report.database}"
    )


def _row(item: Tuned) -> tuple[object, ...]:
    record = item.record
    ratio = f"{record.ratio:.3f} +-{record.noise:.3f}" if record.gain else "no gain"
    times = output.duration(record.default_seconds), output.duration(record.seconds)
    failed = sum(trial.failure is not None for trial in item.search.trials)
    return record.layer, record.target, *times, ratio, record.trials, failed


def _failures(item: Tuned) -> list[str]:
    """The first failure of each kind, and how many there were."""
    found: dict[str, list[str]] = {}
    for trial in item.search.trials:
        if trial.failure is not None:
            found.setdefault(trial.failure.kind, []).append(trial.failure.reason)
    return [f"{len(reasons)} x {kind}, such as {reasons[0]}" for kind, reasons in found.items()]


def report_json(report: TuneReport) -> dict[str, object]:
    """The result of a search for programs."""
    return {
        "database": report.database,
        "ratio": report.ratio,
        "layers": [
            {
                **item.record.to_json(),
                "machine": item.machine.to_json(),
                "space": item.space_size,
                "measured_now": item.fresh,
                "seconds_wall": item.wall_s,
                "seconds_compiling": item.compile_s,
                "seconds_measuring": item.measure_s,
                "seconds_idle": item.overhead_s,
                "interrupted": item.search.interrupted,
                "notes": list(dict.fromkeys(item.search.notes)),
                "history": [_trial_json(trial) for trial in item.search.trials],
            }
            for item in report.tuned
        ],
    }


def _trial_json(trial: Trial) -> dict[str, object]:
    failure = None if trial.failure is None else {"kind": trial.failure.kind, "reason": trial.failure.reason}
    return {
        "trial": trial.number, "ratio": trial.ratio, "seconds": trial.seconds, "best": trial.best,
        "schedule": trial.record, "failure": failure,
    }  # fmt: skip


def print_records(records: list[TunedRecord], versions: str) -> None:
    """What the database holds, as a table; ``versions`` are the current ones."""
    rows = []
    for record in records:
        assert record.key is not None
        ratio = f"{record.ratio:.3f}" if record.gain else "no gain"
        age = "" if record.key.versions == versions else "other version"
        times = output.duration(record.default_seconds), output.duration(record.seconds)
        counts = record.trials, record.threads
        rows.append((record.layer, record.target, *times, ratio, *counts, _machine(record), record.created, age))
    header = ("layer", "target", "heuristic", "tuned", "ratio", "trials", "threads", "machine", "stored", "")
    output.table(header, rows, right="ratio trials threads")


def records_json(records: list[TunedRecord], versions: str) -> list[dict[str, object]]:
    """What the database holds, for programs."""
    return [
        {
            **record.to_json(),
            "machine": _machine(record),
            "stored": record.created,
            "current": record.key is not None and record.key.versions == versions,
        }
        for record in records
    ]


def _machine(record: TunedRecord) -> str:
    from sepcompile.tuning.lookup import machine_name

    return machine_name(record)
