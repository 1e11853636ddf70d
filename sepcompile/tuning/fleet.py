"""Measuring on a fleet: Dask workers that carry a resource label, such as ``cortex-a72=1``.

Dask's scheduler hands each measurement to a free worker with the label, and to another one when a worker disappears.
A worker needs Python, NumPy and ``distributed``; sepcompile is not installed there. What travels is bytes: the device
program's text and the two artifacts, to a Python process that the worker starts. Of ours nothing is pickled; Dask
itself pickles what its processes say to each other, so that whoever can speak to a cluster can run programs on it and
on its clients. Off this machine only TLS with certificates keeps strangers out, and anything else must be asked for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sepcompile.errors import TuningError
from sepcompile.tuning.remote import (
    START,
    DeviceAccessError,
    check_architecture,
    measure_request,
    most_seconds,
    program,
    put_request,
    read_hello,
)
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings, read_answer

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Task

EXAMPLE = "dask://scheduler:8786?label=cortex-a72&ca=ca.pem&cert=client.pem&key=client.key"
_TLS = ("ca", "cert", "key")
_RETRIES = 2  # by Dask, of a task that raises; of a worker's death it is the scheduler's allowed-failures
_POLL_S = 2.0

# Evaluated by a worker. An expression of the standard library and text, so that neither our package nor our version of
# Python has to be there, as a pickled function would need.
_RUN = """(lambda name, done: (name, done.returncode, done.stdout, done.stderr[-2000:]))(
    __import__('distributed').get_worker().name,
    __import__('subprocess').run(
        [__import__('sys').executable, '-c', start], input=data, capture_output=True, timeout=limit))"""


@dataclass(frozen=True)
class FleetPlace:
    """Which scheduler and workers: ``dask://host:port?label=L`` and, off this machine, ``&ca=&cert=&key=`` (PEM files).

    ``insecure=yes`` speaks to a scheduler elsewhere without TLS.
    """

    host: str
    port: int
    label: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    insecure: bool = False

    @staticmethod
    def parse(url: str) -> FleetPlace:
        """Raises ``TuningError`` for anything else, and where TLS is missing."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 8786
            query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True)
        except ValueError as error:
            raise TuningError(f"runner {url!r}: {error}; expected such as {EXAMPLE}") from error
        known = {"label", "insecure", *_TLS}
        if unknown := sorted(set(query) - known):
            raise TuningError(f"runner {url!r}: unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        options = {name: values[-1] for name, values in query.items()}
        insecure = options.pop("insecure", "no")
        if parts.scheme != "dask" or not host or not options.get("label") or insecure not in ("yes", "no"):
            raise TuningError(f"runner {url!r}: expected such as {EXAMPLE}")
        place = FleetPlace(host, port, options.pop("label"), **options, insecure=insecure == "yes")
        place.check(url)
        return place

    def check(self, url: str) -> None:
        """Raises ``TuningError`` where certificates are incomplete, or missing for a scheduler elsewhere."""
        given = [name for name in _TLS if getattr(self, name)]
        if given and len(given) < len(_TLS):
            raise TuningError(f"runner {url!r}: {', '.join(given)} without the rest; TLS takes {', '.join(_TLS)}")
        if not given and not self.insecure and not is_loopback(self.host):
            raise TuningError(
                f"runner {url!r}: without TLS anybody on the way can run programs on the fleet and here; give "
                "&ca=FILE&cert=FILE&key=FILE, or &insecure=yes in a network that you trust"
            )

    @property
    def address(self) -> str:
        """As Dask writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.ca else 'tcp'}://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by an address or name that cannot be another."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class _Order:
    """A measurement that waits for a worker."""

    future: Future[Measurement]
    candidate: Candidate
    incumbent: Candidate
    settings: Settings

    def data(self) -> bytes:
        """The whole input of the device program."""
        artifacts = {artifact.digest: put_request(artifact) for artifact in (self.incumbent, self.candidate)}
        request = measure_request(self.candidate, self.incumbent, self.settings, watch=False)
        return b"".join([program(), *artifacts.values(), request])


class FleetRunner(Runner):
    """Measures on all workers that have the label, one measurement at a time on each.

    Dask is given no more than its workers can begin with: it binds a task to a worker at once, and one that waits
    behind another on the same worker would leave the next worker idle.

    ``patience_s``: how long a fleet without such a worker is waited for.
    """

    def __init__(self, place: FleetPlace | str, *, connect_s: float = 15.0, patience_s: float = 60.0) -> None:
        self._place = FleetPlace.parse(place) if isinstance(place, str) else place
        self._connect_s, self._patience_s = connect_s, patience_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._waiting: deque[_Order] = deque()
        self._running: dict[Future[Measurement], Task] = {}
        self._machine: MachineIdentity | None = None
        self._client = self._connect()
        self._slots = self._count(self._workers())
        self._watcher = threading.Thread(target=self._watch, name="sepcompile-fleet", daemon=True)
        self._watcher.start()

    @property
    def capacity(self) -> int:
        return max(1, self._slots)

    def machine(self) -> MachineIdentity:
        if self._machine is None:
            self._machine = self._identify()
        return self._machine

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        check_architecture(candidate, self.machine(), f"the fleet {self._place.label!r}")
        future: Future[Measurement] = Future()
        self._waiting.append(_Order(future, candidate, incumbent, settings))
        self._hand_out()
        return future

    def close(self) -> None:
        self._closing.set()
        for future in self._unfinished():
            future.cancel()
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=5)
        self._watcher.join()

    def _connect(self) -> Client:
        try:
            from distributed import Client, Security
        except ImportError as error:
            raise TuningError("a fleet needs the package 'distributed': pip install 'sepcompile[fleet]'") from error
        place = self._place
        security = None
        if place.ca:
            security = Security(
                tls_ca_file=place.ca, tls_client_cert=place.cert, tls_client_key=place.key, require_encryption=True
            )
        try:
            return Client(place.address, timeout=self._connect_s, security=security, set_as_default=False)
        except (OSError, TimeoutError) as error:
            hint = "; do its certificates come from the same CA?" if place.ca else ""
            text = f"the scheduler {place.address} cannot be reached{hint} [{error}]"
            raise DeviceAccessError("unreachable", text) from error

    def _workers(self) -> dict[str, Mapping[str, float]]:
        """The resources of the workers that have the label. Raises ``DeviceAccessError`` where there is none."""
        workers = self._client.scheduler_info()["workers"]
        found = {at: info["resources"] for at, info in workers.items() if info["resources"].get(self._place.label)}
        if not found:
            labels = sorted({name for info in workers.values() for name in info["resources"]})
            known = f"its {len(workers)} workers have {', '.join(labels) or 'none'}" if workers else "it has no workers"
            hint = f"dask worker {self._place.address} --resources {self._place.label}=1"
            text = f"no worker of {self._place.address} has the label {self._place.label!r}: {known} ({hint})"
            raise DeviceAccessError("unreachable", text)
        return found

    def _count(self, workers: Mapping[str, Mapping[str, float]]) -> int:
        return int(sum(resources[self._place.label] for resources in workers.values()))

    def _start(self, data: bytes, limit_s: float, worker: str | None = None) -> Task:
        values = {"start": START, "data": data, "limit": limit_s}
        key = f"sepcompile-{uuid.uuid4().hex}"
        resources = {self._place.label: 1}
        return self._client.submit(eval, _RUN, values, key=key, resources=resources, workers=worker, retries=_RETRIES)

    def _identify(self) -> MachineIdentity:
        """Ask each worker what it is; all must be the same kind of machine."""
        tasks = [self._start(program(), self._patience_s, worker) for worker in self._workers()]
        end, found = time.monotonic() + self._patience_s, {}
        for task in tasks:
            with contextlib.suppress(TimeoutError, CancelledError):  # one that is busy is looked at when it measures
                name, _, output, errors = task.result(max(1.0, end - time.monotonic()))
                found[f"worker {name}"] = read_hello((output or errors).split(b"\n")[0], f"worker {name}")
            task.release()
        if not found:
            text = f"no worker with the label {self._place.label!r} answered in {self._patience_s:g} s"
            raise DeviceAccessError("unreachable", text)
        if len(set(found.values())) > 1:
            words = "; ".join(f"{name}: {machine}" for name, machine in sorted(found.items()))
            raise DeviceAccessError(
                "machine", f"workers labelled {self._place.label!r} are different machines: {words}"
            )
        return next(iter(found.values()))

    def _hand_out(self) -> None:
        """Give Dask as many of the waiting measurements as there are free workers."""
        with self._lock:
            while self._waiting and len(self._running) < self.capacity:
                order = self._waiting.popleft()
                if order.future.done():
                    continue
                try:
                    task = self._start(order.data(), most_seconds(order.settings))
                except Exception as error:  # the client is closed, or the artifact is gone
                    order.future.set_exception(TuningError(f"{self._place.address}: {error}"))
                    continue
                self._running[order.future] = task
                order.future.add_done_callback(partial(self._stop, task))
                task.add_done_callback(partial(self._finish, order.future, time.monotonic()))

    def _stop(self, task: Task, future: Future[Measurement]) -> None:
        """Dask need not go on with what nobody waits for."""
        if future.cancelled() or isinstance(future.exception(), DeviceAccessError):
            with contextlib.suppress(Exception):  # the scheduler may be gone
                task.cancel()

    def _finish(self, future: Future[Measurement], start: float, task: Task) -> None:
        """In Dask's thread, when a task has ended in whatever way."""
        with self._lock:
            self._running.pop(future, None)
        if not self._closing.is_set():
            self._hand_out()
        if future.done() or not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self._result(task, time.monotonic() - start))
        except BaseException as error:
            future.set_exception(error)

    def _unfinished(self) -> list[Future[Measurement]]:
        with self._lock:
            return [*self._running, *(order.future for order in self._waiting)]

    def _result(self, task: Task, wall_s: float) -> Measurement:
        label = f"fleet {self._place.label}"
        error = task.exception() if task.status == "error" else None
        if task.status in ("cancelled", "lost") or isinstance(error, CancelledError):
            raise TuningError(f"the scheduler {self._place.address} has forgotten its tasks, or is gone")
        if error is not None:
            return Measurement.failed("lost", f"{type(error).__name__}: {error}", wall_s, label)
        name, status, output, errors = task.result()
        return self._read(f"{label}, worker {name}", status, output, errors, wall_s)

    def _read(self, place: str, status: int, output: bytes, errors: bytes, wall_s: float) -> Measurement:
        """The device program's lines: what the machine is, two artifacts received, the measurement."""
        lines = output.splitlines()
        last = (errors.decode(errors="replace").strip().splitlines() or [f"status {status}"])[-1]
        if not lines:
            return Measurement.failed("lost", f"Python did not start: {last}", wall_s, place)
        machine = read_hello(lines[0], place)
        if machine != self._machine:
            raise DeviceAccessError("machine", f"{place} is {machine}; the others are {self._machine}")
        answers: list[dict[str, Any]] = [json.loads(line) for line in lines[1:]]
        for answer in answers:
            if not answer.get("ok"):
                return Measurement.failed("lost", str(answer.get("reason", "refused")), wall_s, place)
        if not answers or "lanes" not in answers[-1]:
            return Measurement.failed("lost", f"the device program ended early: {last}", wall_s, place)
        return read_answer(answers[-1], wall_s, place)

    def _watch(self) -> None:
        """Look after the workers: how many there are, and whether waiting for one still makes sense."""
        seen = time.monotonic()
        while not self._closing.wait(_POLL_S):
            reason = ""
            try:
                self._slots, seen = self._count(self._workers()), time.monotonic()
            except Exception as error:
                reason = str(error)
            if not reason:
                self._hand_out()  # a new worker may have come
            elif time.monotonic() - seen > self._patience_s:
                self._fail_all(f"no worker for {self._patience_s:g} s: {reason}")

    def _fail_all(self, reason: str) -> None:
        for future in self._unfinished():
            with contextlib.suppress(InvalidStateError):  # it ends in this moment
                future.set_exception(DeviceAccessError("unreachable", reason))
