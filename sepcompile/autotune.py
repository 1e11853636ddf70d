"""``sepcompile.tune``, and what ``compile`` takes from the tuning database."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sepcompile.api import TargetName
    from sepcompile.frontend import ImportedLayer
    from sepcompile.targets import Target
    from sepcompile.tuning.job import JobOptions, Tuned
    from sepcompile.tuning.lookup import Found
    from sepcompile.tuning.runner import Runner
    from sepcompile.tuning.tuner import Progress

DatabaseName = str | os.PathLike[str] | bool
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class TuneReport:
    """What was tuned: one entry per layer and target, all stored in ``database``."""

    tuned: tuple[Tuned, ...]
    database: Path

    @property
    def ratio(self) -> float:
        """Time over the heuristic's, the geometric mean; 1 where nothing was gained."""
        return math.exp(sum(math.log(item.record.ratio) for item in self.tuned) / len(self.tuned))

    def __str__(self) -> str:
        return "\n".join(_line(item) for item in self.tuned)


def _line(item: Tuned) -> str:
    record = item.record
    what = f"{record.layer} on {record.target}: {record.seconds * 1e6:.1f} us"
    if not record.gain:
        return f"{what}, no gain over the heuristic in {record.trials} trials"
    return f"{what}, {record.ratio:.3f} of the heuristic's time (+-{record.noise:.3f}), {record.trials} trials"


def tune(
    layer: object,
    input_shape: object = None,
    target: TargetName | Sequence[TargetName] = "native",
    weights: object = None,
    keras_version: str | None = None,
    *,
    trials: int = 64,
    time_budget: float | str | None = None,
    seed: int = 0,
    threads: int = 1,
    layers: str | Sequence[str] | None = None,
    database: DatabaseName = True,
    runner: Runner | str | None = None,
    cache: str | os.PathLike[str] | bool = True,
    fresh: bool = False,
    precision: str = "float32",
    progress: Callable[[str, Progress], None] | None = None,
) -> TuneReport:
    """Search for faster schedules and store them, for ``compile`` to use.

    Candidates are compiled in processes of their own, checked against the float64 reference and timed beside the best
    so far; a schedule is stored where it beats the heuristic's by more than the noise. What was measured is kept at
    once: a search that was ended, by whatever, goes on when it is started again.

    Args:
        layer, input_shape, target, weights, keras_version, layers: as for ``compile``; a model's blocks one by one.
        trials: candidates per layer. time_budget: seconds for all, or a text such as "90s", "5m" or "1h".
        seed: of the search; the same seed and the same measurements give the same proposals.
        threads: threads of one call, as it is tuned for. A record that is slower with all CPUs is not taken either.
        database: the file of results: True for the user's own, or a path.
        runner: where candidates run: None or "local" for this machine, "ssh://user@host", "dask://scheduler:8786?label=..."
            or a ``sepcompile.tuning.runner.Runner``, which stays open.
        cache: where compiled kernels are kept, as for ``compile``.
        fresh: measure again what was measured in earlier searches.
        precision: as for ``compile``; "tf32" is tuned apart from "float32".
        progress: called with a layer's name and where its search is.

    Raises ``TuningError``, ``TargetError`` for a target that cannot run here (without a runner), and as ``compile``.
    """
    from sepcompile.codegen.cache import open_cache
    from sepcompile.errors import ConfigError, TuningError
    from sepcompile.tuning.job import JobOptions
    from sepcompile.tuning.runner import Runner
    from sepcompile.tuning.runners import open_runner

    path = database_path(database)
    if path is None:
        raise ConfigError(f"database={database!r}: tuning needs one; expected True or a path")
    seconds = read_duration(time_budget)
    _check_numbers(trials=(trials, 1), threads=(threads, 1), seed=(seed, 0))
    pairs = list(_subjects(layer, input_shape, target, weights, keras_version, layers))
    with contextlib.ExitStack() as stack:
        if isinstance(runner, str):
            opened = open_runner(runner)
            runner = None if opened is None else stack.enter_context(opened)
        elif runner is not None and not isinstance(runner, Runner):
            raise TuningError(f"runner={runner!r}: expected None, an address such as 'ssh://pi@host', or a Runner")
        kept = open_cache(cache, "candidates.sqlite3")  # in `compile`'s own, candidates would drive out the rest
        base = JobOptions(path, trials, seconds, seed, threads, kept, fresh)
        return TuneReport(tuple(_tune_all(pairs, base, precision, runner, progress)), path)


def _tune_all(
    pairs: Sequence[tuple[ImportedLayer, Target]],
    options: JobOptions,
    precision: str,
    runner: Runner | None,
    progress: Callable[[str, Progress], None] | None,
) -> Iterator[Tuned]:
    """One after the other. What is left of the time is shared evenly; a share of nothing still measures the default."""
    from sepcompile.tuning.build import Subject
    from sepcompile.tuning.job import tune_subject

    end = None if options.time_budget_s is None else time.monotonic() + options.time_budget_s
    for number, (layer, target) in enumerate(pairs):
        share = None if end is None else max(1e-3, (end - time.monotonic()) / (len(pairs) - number))

        def show(state: Progress, name: str = layer.program.name) -> None:
            if progress is not None:
                progress(name, state)

        subject = Subject(layer.program, layer.weights, target, precision)
        tuned = tune_subject(subject, replace(options, time_budget_s=share), runner, show)
        yield tuned
        if tuned.search.interrupted:
            return


def _check_numbers(**arguments: tuple[object, int]) -> None:
    """Raises ``TuningError`` where a (value, least) is no whole number of at least that."""
    from sepcompile.errors import TuningError

    for name, (value, least) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TuningError(f"{name}={value!r} must be at least {least}, a whole number")


def read_duration(value: float | str | None) -> float | None:
    """Seconds, from a number or a text such as "90s", "5m", "1.5h". Raises ``ConfigError``."""
    from sepcompile.errors import ConfigError

    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([smh]?)", str(value).strip())
    if isinstance(value, bool) or match is None or float(match[1]) <= 0:
        raise ConfigError(f"time_budget={value!r}: expected seconds above 0, or a text such as '90s', '5m' or '1h'")
    return float(match[1]) * _UNITS[match[2]]


def database_path(database: DatabaseName) -> Path | None:
    """The tuning database's file; None where there is to be none. Raises ``ConfigError``."""
    from sepcompile.errors import ConfigError

    if database is False:
        return None
    if database is True:
        from platformdirs import user_data_path

        return user_data_path("sepcompile") / "tuning.sqlite3"
    if not isinstance(database, str | os.PathLike):
        raise ConfigError(f"database={database!r}: expected True, False or the path of a file")
    return Path(database)


def find_tuned(
    imported: ImportedLayer, target: Target, database: DatabaseName, precision: str = "float32"
) -> Found | None:
    """What the database holds for a layer and a target; None where it holds nothing."""
    path = database_path(database)
    if path is None or not path.exists():
        return None
    from sepcompile.tuning.lookup import find_schedule

    return find_schedule(imported.program, imported.weights, target, path, precision)


def _subjects(
    layer: object,
    input_shape: object,
    target: TargetName | Sequence[TargetName],
    weights: object,
    keras_version: str | None,
    layers: str | Sequence[str] | None,
) -> Iterator[tuple[ImportedLayer, Target]]:
    """Every layer with every target."""
    from sepcompile import models
    from sepcompile.api import find_targets
    from sepcompile.errors import ConfigError
    from sepcompile.frontend import read_layer
    from sepcompile.frontend.model import is_model

    targets = find_targets(target)
    if is_model(layer):
        found = models.read_blocks(layer, input_shape, weights, keras_version, layers)
    elif layers is not None:
        raise ConfigError(f"layers={layers!r} is for a model; one layer was given")
    else:
        found = [read_layer(layer, input_shape=input_shape, weights=weights, keras_version=keras_version)]
    return ((item, chosen) for item in found for chosen in targets)
