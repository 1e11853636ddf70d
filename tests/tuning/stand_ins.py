"""A compiler and a device that answer at once, from a known cost: for what the tuner makes of answers."""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from sepcompile.tuning.activity import Activity
from sepcompile.tuning.build import BuildError
from sepcompile.tuning.database import Database
from sepcompile.tuning.key import Key
from sepcompile.tuning.lab import Lab
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings
from sepcompile.tuning.tuner import SearchOptions, Tuner

KEY = Key("program", "target", "versions", "machine")


def name_of(record) -> str:
    return json.dumps(record if isinstance(record, dict) else record.to_json(), sort_keys=True)


class Builder:
    """Makes candidates without files; ``breaks`` says which records do not compile."""

    def __init__(self, breaks=lambda record: False):
        self.activity, self.built, self._breaks = Activity(), [], breaks

    def submit(self, record):
        future = Future()
        self.built.append(record)
        if self._breaks(record):
            future.set_exception(BuildError("LLVM said no"))
        else:
            future.set_result(Candidate(Path("/nowhere"), record.to_json(), name_of(record)))
        return future

    def drop(self, candidate):
        pass


class Device(Runner):
    """Measures by ``seconds(record, threads)``, times what ``slowness(number)`` says of the whole machine just then."""

    def __init__(self, seconds, noise=0.003, slowness=lambda number: 1.0, failing=lambda record: None, most=None):
        self._seconds, self._noise, self._slowness, self._failing = seconds, noise, slowness, failing
        self._most, self.asked, self._lock = most, [], threading.Lock()
        self._times = Counter()

    @property
    def capacity(self):
        return 1

    def machine(self):
        return MachineIdentity("x86_64", "stand-in", "0", 2)

    def submit(self, candidate, incumbent, settings: Settings):
        future = Future()
        with self._lock:
            self.asked.append((candidate.digest, settings.threads))
            number = len(self.asked)
        if self._most is not None and number > self._most:
            raise KeyboardInterrupt
        if (kind := self._failing(candidate.record)) is not None:
            future.set_result(Measurement.failed(kind, "as it was told"))
            return future
        # What is measured depends on the pair, and on how often it was measured: launches differ.
        pair = f"{candidate.digest}{incumbent.digest}{settings.rounds}"
        with self._lock:
            self._times[pair] += 1
        rng = np.random.default_rng(zlib.crc32(f"{pair}{self._times[pair]}".encode()))
        slow = self._slowness(number) * np.exp(rng.normal(0, 0.05, settings.rounds))
        mine, other = (
            self._seconds(record, settings.threads) * slow * np.exp(rng.normal(0, self._noise, settings.rounds))
            for record in (candidate.record, incumbent.record)
        )
        future.set_result(Measurement(tuple(map(float, mine)), tuple(map(float, other)), None, 0.0, "stand-in"))
        return future

    def close(self):
        pass


def search(space, device, path, *, builder=None, recall=True, progress=lambda state: None, **options):
    """Run one tuner; returns its result and the lab."""
    with Database(path) as database:
        lab = Lab(builder or Builder(), device, database, KEY, Settings(), options.get("width", 5))
        if recall:
            lab.recall()
        try:
            return Tuner(space, lab, SearchOptions(**options), progress).run(), lab
        finally:
            lab.close()
