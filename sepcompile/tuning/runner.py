"""What the tuner and the places that run candidates say to each other.

A *candidate* is an ordinary artifact; a *runner* has it measured somewhere: in processes of this machine
(``local.LocalRunner``), on a device over ssh, on a fleet of workers. What holds for every runner:

- ``submit`` returns at once with a future. Up to ``capacity`` measurements run at the same time, on different
  machines; more are queued. Futures may finish in any order.
- A measurement is made by the program ``device/``, which needs Python and NumPy there, nothing else. It loads the two
  artifacts with their own loaders, each in a process of its own, checks their numbers first (the float64 self-test,
  every buffer between guard pages, and the candidate's whole output against the incumbent's), and only then times the
  two in interleaved rounds: both sides of a ratio come from the same machine at the same time.
- Whatever a candidate does (crash, hang, wrong numbers, too much memory), its future gives a ``Measurement`` with a
  ``failure``; it never raises. So does a worker that disappears, after the runner's own retries: kind ``lost``, which
  is not the candidate's fault and is never stored.
- The future raises ``TuningError`` only where no further measurement can succeed: no device is left, access is refused.
- All machines of a runner are of one kind. ``machine()`` says which; records are stored under it.
- ``close`` cancels what is queued, ends what runs, and may be called twice. A runner is a context manager.

``Settings.request`` and ``read_answer`` are the two ends of the device program's ``measure``, wherever it runs.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self, get_type_hints

from sepcompile.errors import TuningError
from sepcompile.tuning.stats import Comparison, compare

DEVICE_PROGRAM = Path(__file__).parent / "device"
"""The program that measures: a folder, run as ``python <folder>``; see its own text."""

FAILURES = ("compile", "load", "wrong", "crash", "hang", "memory", "lost")
"""Kinds of failure: what happened to a candidate, or (``lost``) to the machine that should have measured it."""
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Candidate:
    """An artifact to measure: its folder on this machine and the schedule record that it was compiled with.

    ``digest`` is the SHA-256 of its manifest, which holds the digest of every other file: it names the contents, and
    lets a runner send each artifact to a device once.
    """

    folder: Path
    record: Mapping[str, object]
    digest: str

    @staticmethod
    def of(folder: Path, record: Mapping[str, object]) -> Candidate:
        """The candidate in ``folder``."""
        return Candidate(folder, record, hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest())

    def files(self) -> dict[str, bytes]:
        """Every file of the artifact by its path relative to the folder, with ``/`` on every system."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


@dataclass(frozen=True)
class Settings:
    """How one measurement is made.

    threads: threads of one call.
    rounds: interleaved rounds; in each the candidate and the incumbent are called for ``round_seconds`` each.
    stop_ratio: a candidate that in each of the first three rounds is slower by this factor is timed no further.
    timeout_s: how long one step may take (loading and checking, or one round), before the candidate counts as hanging.
    memory_bytes: what the candidate may allocate beyond what Python and NumPy take; 0 for most of what is free.
    """

    threads: int = 1
    rounds: int = 12
    round_seconds: float = 0.004
    stop_ratio: float = 1.15
    timeout_s: float = 20.0
    memory_bytes: int = 0

    def request(self, incumbent: str, candidate: str) -> dict[str, object]:
        """The device program's request, for two artifacts by their names or folders where it runs."""
        return {
            "do": "measure",
            "lanes": [incumbent, candidate],
            "threads": self.threads,
            "rounds": self.rounds,
            "round_ms": self.round_seconds * 1e3,
            "stop_ratio": self.stop_ratio,
            "timeout_s": self.timeout_s,
            "memory_mb": self.memory_bytes >> 20,
        }


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no time. ``kind`` is one of ``FAILURES``, ``reason`` a line for people."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(frozen=True)
class Measurement:
    """What came out: seconds per call in each round, of the candidate and of the incumbent, or a failure.

    ``wall_s`` is how long the measurement took in all, ``place`` where it ran, in words.
    """

    seconds: tuple[float, ...] = ()
    incumbent_seconds: tuple[float, ...] = ()
    failure: Failure | None = None
    wall_s: float = 0.0
    place: str = ""

    @staticmethod
    def failed(kind: str, reason: str, wall_s: float = 0.0, place: str = "") -> Measurement:
        """A measurement without times."""
        assert kind in FAILURES, kind
        text = " ".join(reason.split())
        short = text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + " ..."
        return Measurement(failure=Failure(kind, short), wall_s=wall_s, place=place)

    @property
    def ok(self) -> bool:
        """Whether there are times."""
        return self.failure is None

    @property
    def comparison(self) -> Comparison:
        """The candidate's time over the incumbent's, and how far that may be off; only where ``ok``."""
        return compare(self.seconds, self.incumbent_seconds)

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Measurement:
        """Read ``to_json``'s object back, from a file or a device: raises ``TuningError`` for anything else."""
        seconds, incumbent = _times(data.get("seconds")), _times(data.get("incumbent_seconds"))
        failure = data.get("failure")
        wall, place = data.get("wall_s", 0.0), data.get("place", "")
        if not isinstance(wall, float | int) or not isinstance(place, str):
            raise TuningError(f"measurement: wall_s={wall!r:.80}, place={place!r:.80}; expected a number and a text")
        if failure is not None:
            if not isinstance(failure, Mapping) or failure.get("kind") not in FAILURES:
                known = ", ".join(FAILURES)
                raise TuningError(f"measurement: failure={failure!r:.200}; its kind must be one of {known}")
            return Measurement.failed(str(failure["kind"]), str(failure.get("reason", "")), float(wall), place)
        if not seconds or len(seconds) != len(incumbent):
            raise TuningError(f"measurement: {len(seconds)} and {len(incumbent)} rounds; expected as many of both")
        return Measurement(seconds, incumbent, None, float(wall), place)


def _times(values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TuningError(f"measurement: seconds={values!r:.80}; expected a list of times")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < math.inf:
            raise TuningError(f"measurement: a time is {value!r:.80}; expected seconds above 0")
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class MachineIdentity:
    """What makes the times of two machines comparable. Records of one identity are not used for another.

    arch, cpu: architecture and the CPU's own name. features: a digest of its feature flags. cpus: how many CPUs a
    process may use. gpu: the GPU's name, where the variant runs on one.
    """

    arch: str
    cpu: str
    features: str
    cpus: int
    gpu: str = ""

    def __str__(self) -> str:
        return f"{self.gpu or self.cpu or self.arch}, {self.cpus} CPU{'s' * (self.cpus != 1)}"

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: object) -> MachineIdentity:
        """Read ``to_json``'s object back; raises ``TuningError``."""
        kinds = get_type_hints(MachineIdentity)
        names = [item.name for item in fields(MachineIdentity)]
        if not isinstance(data, dict) or set(data) != set(names) or any(type(data[n]) is not kinds[n] for n in names):
            raise TuningError(f"machine identity {data!r:.200}; expected {', '.join(names)}")
        return MachineIdentity(**data)

    @staticmethod
    def of(description: Mapping[str, object]) -> MachineIdentity:
        """From the device program's first line. Raises ``TuningError`` where that is not one."""
        features, cpus = description.get("features"), description.get("cpus")
        arch, cpu, gpu = (description.get(key, "") for key in ("machine", "cpu", "gpu"))
        if not isinstance(features, list) or type(cpus) is not int or cpus < 1 or not (arch and cpu):
            raise TuningError(f"device: describes itself as {dict(description)!r:.200}")
        flags = " ".join(sorted({str(feature) for feature in features}))
        digest = hashlib.sha256(flags.encode()).hexdigest()[:16]
        return MachineIdentity(str(arch)[:40], str(cpu)[:200], digest, cpus, str(gpu)[:200])


class Runner(ABC):
    """Measures candidates; see the module's text for what holds."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many measurements can run at the same time; at least 1."""

    @abstractmethod
    def machine(self) -> MachineIdentity:
        """The kind of machine that measures. Raises ``TuningError`` where none can be reached."""

    @abstractmethod
    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        """Have ``candidate`` measured beside ``incumbent``; both folders stay until the future is done."""

    @abstractmethod
    def close(self) -> None:
        """End everything."""

    def measure(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Measurement:
        """``submit``, waited for."""
        return self.submit(candidate, incumbent, settings).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_answer(answer: Mapping[str, object], wall_s: float = 0.0, place: str = "") -> Measurement:
    """The measurement in the device program's answer to ``Settings.request``.

    An incumbent that fails says nothing about the candidate: the measurement is ``lost``. Raises ``TuningError`` for
    an answer that is none.
    """
    lanes = answer.get("lanes")
    if not isinstance(lanes, list) or len(lanes) != 2 or not all(isinstance(lane, dict) for lane in lanes):
        raise TuningError(f"{place or 'device'}: answered {dict(answer)!r:.200}; expected two lanes")
    incumbent, candidate = lanes
    for lane, kind, who in ((incumbent, "lost", "the incumbent: "), (candidate, candidate.get("kind"), "")):
        if lane.get("ok") is not True:
            known = str(kind) if kind in FAILURES else "crash"
            return Measurement.failed(known, f"{who}{lane.get('reason', 'no reason')}", wall_s, place)
    mine, other = (tuple(t * 1e-6 for t in _times(lane.get("best_us"))) for lane in (candidate, incumbent))
    if not mine or len(mine) != len(other):
        raise TuningError(f"{place or 'device'}: {len(mine)} and {len(other)} rounds; expected as many of both")
    return Measurement(mine, other, None, wall_s, place)
