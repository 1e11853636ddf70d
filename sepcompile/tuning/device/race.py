"""Artifacts side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from typing import Any

from .lane import LaneError, learn, serve_lane

ROUNDS_BEFORE_STOP = 3
_PR_SET_PDEATHSIG = 1

Json = dict[str, Any]


class GoneError(Exception):
    """Whoever sent the requests has gone."""


class Request:
    """What a request to measure may say beside the lanes.

    threads: threads of one call. rounds: turns of each artifact. round_ms: time of one turn. warm_ms: before them.
    stop_ratio: nothing is timed further once every artifact but the first has been slower than it by this factor in
    each of the first rounds; 0: never. timeout_s: of one step of one artifact. memory_mb: address space that an
    artifact may take beside what Python has; 0: three quarters of what is free. watch: give up where standard input is
    hung up.
    """

    def __init__(self, values: Json) -> None:
        self.threads = int(values.get("threads", 1))
        self.rounds = int(values.get("rounds", 12))
        self.round_ms = float(values.get("round_ms", 4.0))
        self.warm_ms = float(values.get("warm_ms", 4.0))
        self.stop_ratio = float(values.get("stop_ratio", 0.0))
        self.timeout_s = float(values.get("timeout_s", 20.0))
        self.memory_mb = int(values.get("memory_mb", 0))
        self.watch = bool(values.get("watch", True))


def die_with(parent: int, number: int) -> None:
    """Have the kernel send signal ``number`` to this process when ``parent`` ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def wait_for(descriptor: int, seconds: float, watch: bool) -> bool:
    """Whether ``descriptor`` can be read in time. ``watch``: raises ``GoneError`` where standard input is hung up."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if watch:
        poll.register(0, 0)  # reports the hang-up alone, not a request that waits
    end = time.monotonic() + seconds
    while True:
        ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1e3))
        if descriptor in ready:
            return True
        if ready.get(0, 0) & (select.POLLHUP | select.POLLERR):
            raise GoneError
        if time.monotonic() >= end:
            return False


class Child:
    """An artifact's process, seen from outside."""

    def __init__(self, folder: str, request: Request, shared: str) -> None:
        to_child, verbs = os.pipe()
        answers, from_child = os.pipe()
        self.request = request
        self.status: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                die_with(parent, signal.SIGKILL)
                serve_lane(folder, request, shared, to_child, from_child)
            finally:
                os._exit(0)
        os.close(to_child)
        os.close(from_child)
        self.verbs, self.answers = verbs, answers

    def ask(self, *words: Any) -> Json:
        """One verb and its answer. Raises ``LaneError`` for whatever goes wrong."""
        try:
            os.write(self.verbs, json.dumps(words).encode() + b"\n")
        except OSError:
            raise self._death(words[0]) from None
        line, end = b"", time.monotonic() + self.request.timeout_s
        while not line.endswith(b"\n"):
            if not wait_for(self.answers, end - time.monotonic(), self.request.watch):
                raise LaneError("hang", f"{words[0]}: no end after {self.request.timeout_s:g} s")
            piece = os.read(self.answers, 1 << 16)
            if not piece:
                raise self._death(words[0])
            line += piece
        answer: Json = json.loads(line)
        if not answer.pop("ok"):
            raise LaneError(answer["kind"], f"{words[0]}: {answer['reason']}")
        return answer

    def _death(self, verb: str) -> LaneError:
        self.close(kill=False)
        assert self.status is not None
        if not os.WIFSIGNALED(self.status):
            return LaneError("crash", f"{verb}: it ended the process, status {os.WEXITSTATUS(self.status)}")
        number = os.WTERMSIG(self.status)
        if number == signal.SIGKILL:
            return LaneError("memory", f"{verb}: killed, as the system does where memory runs out")
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        touched = number in (signal.SIGSEGV, signal.SIGBUS)
        return LaneError("crash", f"{verb}: {name}{', memory outside its buffers was touched' * touched}")

    def close(self, kill: bool = True) -> None:
        """Wait for the process's end, which ``kill`` brings about for it and what it started."""
        if self.status is not None:
            return
        if kill:
            for send in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(self.pid, signal.SIGKILL)
        self.status = os.waitpid(self.pid, 0)[1]
        os.close(self.verbs)
        os.close(self.answers)


class Race:
    """Artifacts that are timed side by side."""

    def __init__(self, folders: list[str], request: Request, shared: str) -> None:
        self.folders, self.request, self.shared = folders, request, shared
        self.children: list[Child] = []
        self.results: list[Json] = []

    def run(self) -> list[Json]:
        """A result per artifact. One that fails is out and the others go on; all need the first."""
        try:
            for folder in self.folders:
                self._enter(folder)
            order = list(range(len(self.children)))
            for number in range(self.request.rounds):
                turn = number % len(order)
                for index in order[turn:] + order[:turn]:
                    self._round(index)
                if number + 1 == ROUNDS_BEFORE_STOP and self._decided():
                    break
            for index in order:
                self._ask(index, "recheck")
        finally:
            for child in self.children:
                child.close()
        return self.results

    def _enter(self, folder: str) -> None:
        index = len(self.children)
        failed = bool(index) and not self.results[0]["ok"]
        reason = "the first artifact failed" if failed else ""
        self.results.append(
            {"ok": not failed, "kind": "load" * failed, "reason": reason, "best_us": [], "median_us": []}
        )
        if not failed:
            learn(folder)
            self.children.append(Child(folder, self.request, self.shared))
            self._ask(index, "check", index == 0)
            self._ask(index, "warm")

    def _round(self, index: int) -> None:
        answer = self._ask(index, "round")
        for key in ("best_us", "median_us") if answer else ():
            self.results[index][key].append(answer[key])

    def _decided(self) -> bool:
        """Whether all others are so much slower than the first that further rounds would change nothing."""
        first, ratio = self.results[0]["best_us"], self.request.stop_ratio
        pairs = [pair for result in self.results[1:] for pair in zip(result["best_us"], first)]  # noqa: B905
        return ratio > 0 and all(mine > ratio * other for mine, other in pairs)

    def _ask(self, index: int, *words: Any) -> Json:
        """What the artifact's process answers; nothing where it has failed, or fails now."""
        child, result = self.children[index], self.results[index]
        if not result["ok"]:
            return {}
        try:
            answer = child.ask(*words)
        except LaneError as error:
            child.close()
            result.update(ok=False, kind=error.kind, reason=error.reason)
            return {}
        if "worst" in answer:
            result["worst"] = answer["worst"]
        return answer
