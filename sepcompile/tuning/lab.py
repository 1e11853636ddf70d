"""Answers the search's questions: from the journal where it was asked before, else by building and measuring."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sepcompile.errors import TuningError
from sepcompile.tuning.build import Builder, BuildError
from sepcompile.tuning.database import Database, Question
from sepcompile.tuning.key import Key
from sepcompile.tuning.runner import Candidate, Measurement, Runner, Settings

_LOST_IN_A_ROW = 3


class Lab:
    """Up to ``width`` questions at a time. What is found out is in ``database`` before anybody is told.

    ``known`` are the outcomes of earlier searches by their question's text.
    """

    def __init__(
        self, builder: Builder, runner: Runner, database: Database, key: Key, settings: Settings, width: int
    ) -> None:
        self._builder, self._runner, self._settings = builder, runner, settings
        self._database, self._key = database, key
        self.activity = builder.activity
        self.fresh = 0
        self._closed = False
        self._known: dict[str, Measurement] = {}
        self._artifacts: dict[str, Future[Candidate]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(width, thread_name_prefix="sepcompile-lab")

    def recall(self) -> int:
        """Take the journal's outcomes into account; returns how many there are."""
        self._known = self._database.outcomes(self._key)
        return len(self._known)

    def ask(
        self, candidate: Any, incumbent: Any, purpose: str = "search", attempt: int = 0, **settings: Any
    ) -> Future[Measurement]:
        """``candidate`` beside ``incumbent``, both records. ``settings`` are the runner's where they differ from usual.

        The future raises ``TuningError`` where nothing works.
        """
        wanted = replace(self._settings, **settings)
        question = Question(candidate.to_json(), incumbent.to_json(), wanted.threads, purpose, attempt)
        if (known := self._known.get(question.text)) is not None:
            done: Future[Measurement] = Future()
            done.set_result(known)
            return done
        return self._threads.submit(self._answer, question, candidate, incumbent, wanted)

    def forget(self, record: Any) -> None:
        """Remove a record's artifact, if there is one; it is built again when it is asked for."""
        with self._lock:
            built = self._artifacts.pop(_name(record), None)
        if built is not None and built.done() and built.exception() is None:
            self._builder.drop(built.result())

    def close(self) -> None:
        """Nothing is asked any more; what is under way is dropped, and whatever comes of it is not kept."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, question: Question, candidate: Any, incumbent: Any, settings: Settings) -> Measurement:
        try:
            mine = self._artifact(candidate).result()
            other = self._artifact(incumbent).result()
        except BuildError as error:
            outcome = Measurement.failed("compile", str(error))
        else:
            outcome = self._measured(mine, other, settings)
        if self._closed:
            raise TuningError("the search was ended")
        self._database.add_outcome(self._key, question, outcome)
        self._known[question.text] = outcome
        self.fresh += 1
        return outcome

    def _measured(self, mine: Candidate, other: Candidate, settings: Settings) -> Measurement:
        for _ in range(_LOST_IN_A_ROW):
            with self.activity.during("measure_s"):
                outcome = self._runner.submit(mine, other, settings).result()
            if outcome.failure is None or outcome.failure.kind != "lost":
                return outcome
        raise TuningError(f"measurements are lost, {_LOST_IN_A_ROW} times in a row; the last: {outcome.failure}")

    def _artifact(self, record: Any) -> Future[Candidate]:
        name = _name(record)
        with self._lock:
            if name not in self._artifacts:
                self._artifacts[name] = self._builder.submit(record)
            return self._artifacts[name]


def _name(record: Any) -> str:
    return json.dumps(record.to_json(), sort_keys=True)
