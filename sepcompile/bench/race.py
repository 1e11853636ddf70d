"""One launch: every peer's process, every layer, rounds in turn. Whatever a peer does, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepcompile.bench.errors import PeerError, UnsupportedLayerError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.options import TOLERANCE, BenchOptions
from sepcompile.bench.peers.base import Settings
from sepcompile.bench.process import PeerProcess
from sepcompile.bench.report import Round
from sepcompile.bench.timing import Timing

RESTARTS = 3


@dataclass
class Lane:
    """What one peer did with one layer so far."""

    status: str = "ok"
    reason: str = ""
    error: float | None = None
    rounds: list[Round] = field(default_factory=list)
    evidence: dict[str, str] = field(default_factory=dict)


class Racer:
    """A peer's process and its lanes; the process is started anew when it dies, without the layer that killed it."""

    def __init__(self, settings: Settings, options: BenchOptions, folder: Path) -> None:
        self.settings, self._options, self._folder = settings, options, folder
        self.lanes: dict[str, Lane] = {}
        self.info: dict[str, Any] = {}
        self.failure = ""
        self._restarts = 0
        self._process: PeerProcess | None = None

    @property
    def name(self) -> str:
        return self.settings.peer

    @property
    def tolerance(self) -> float:
        return TOLERANCE.get(str(self.info.get("precision", "float32")), TOLERANCE["float32"])

    def start(self) -> bool:
        """Import the library; on failure the reason is kept and the peer is out of this launch."""
        command = self._options.commands.get(self.name)
        self._process = PeerProcess(self.settings, self._options.peer_python, command)
        try:
            self.info = self._process.start()
        except PeerError as error:
            self.failure = str(error)
            self.close()
        return not self.failure

    def prepare(self, layer: BenchLayer) -> None:
        """Build and check one layer."""
        lane = self.lanes.setdefault(layer.name, Lane())
        answer = self._ask(lane, "prepare", {"folder": str(self._folder / layer.name), "tolerance": self.tolerance})
        if answer is None:
            return
        errors = {label: float(error) for label, error in answer["errors"].items()}
        kept = answer["kept"]
        lane.error = max((errors[label] for label in kept), default=min(errors.values(), default=None))
        lane.evidence = {label: text for label, text in answer["evidence"].items() if text and label in kept}
        if not kept:
            self._wrong(lane, "its output")

    def measure(self, layer: BenchLayer, launch: int, index: int) -> None:
        """One round of one layer."""
        lane = self.lanes[layer.name]
        budget = {"budget_ms": self._options.budget_ms, "warm_ms": self._options.warm_ms}
        answer = self._ask(lane, "measure", {"layer": layer.name, **budget})
        for setup, values in (answer or {}).items():
            lane.rounds.append(Round(launch, index, setup, Timing.from_json(values)))

    def verify(self, layer: BenchLayer) -> None:
        """Check the output again after the rounds."""
        lane = self.lanes[layer.name]
        errors = self._ask(lane, "verify", {"layer": layer.name})
        if errors and max(errors.values()) > self.tolerance:
            lane.error = max(errors.values())
            self._wrong(lane, "after the rounds, its output")

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = None

    def _wrong(self, lane: Lane, what: str) -> None:
        lane.status = "wrong"
        lane.reason = f"{what} is off by {lane.error:.2g} of the largest value; the tolerance is {self.tolerance:g}"

    def _ask(self, lane: Lane, verb: str, arguments: dict[str, Any]) -> Any:
        """Ask about a lane that is still in the race; a refusal or a death takes the lane out."""
        if lane.status != "ok" or self._process is None:
            return None
        try:
            return self._process.ask(verb, arguments, self._options.answer_timeout)
        except UnsupportedLayerError as error:
            lane.status, lane.reason = "unsupported", str(error)
        except PeerError as error:
            lane.status, lane.reason = "failed", str(error)
            if not self._process.alive:
                self._revive()
        return None

    def _revive(self) -> None:
        """Start again and prepare the layers that were well, unless the process keeps dying."""
        self.close()
        self._restarts += 1
        if self._restarts > RESTARTS or not self.start():
            self._give_up(self.failure or f"its process died {self._restarts} times")
            return
        for name, lane in self.lanes.items():
            # A restarted peer that no longer prepares a layer is out of that layer only.
            self._ask(lane, "prepare", {"folder": str(self._folder / name), "tolerance": self.tolerance})

    def _give_up(self, reason: str) -> None:
        self.close()
        self.failure = reason
        for lane in self.lanes.values():
            if lane.status == "ok":
                lane.status, lane.reason = "failed", reason


def run_launch(
    racers: Sequence[Racer],
    layers: Sequence[BenchLayer],
    options: BenchOptions,
    launch: int,
    between: Callable[[], None],
) -> None:
    """Prepare, race in turn, verify. The order of the peers turns with each round; ``between`` runs before each."""
    for racer in racers:
        for number, layer in enumerate(layers, 1):
            racer.prepare(layer)
            options.progress(f"prepare {racer.name} {number}/{len(layers)} {layer.name}")
    for index in range(options.rounds):
        between()
        turn = index % max(len(racers), 1)
        for number, layer in enumerate(layers, 1):
            options.progress(f"round {index + 1}/{options.rounds} {number}/{len(layers)} {layer.name}")
            for racer in (*racers[turn:], *racers[:turn]):
                racer.measure(layer, launch, index)
    for racer in racers:
        for layer in layers:
            racer.verify(layer)
