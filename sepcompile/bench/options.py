"""What a benchmark is asked to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.model_blocks import Block
from sepcompile.bench.peers import ISA_ENV, MODULES, OURS

TOLERANCE = {"float32": 2e-5, "bfloat16": 5e-2, "float16": 1e-2}


def say_nothing(message: str) -> None:
    """The progress callback when nobody listens."""


@dataclass(frozen=True)
class BenchOptions:
    """``layers``, when given, takes the place of ``suite``; ``only`` picks rows by name.

    ``blocks``, those of a model, take the place of both, and ``suite`` is then what they are called in the report.

    ``peers`` empty means every known peer that can be imported by ``peer_python``. ``isa`` limits the instruction set
    of peers that can be limited. ``pin`` confines every process to as many CPUs as threads; ``realtime`` asks for
    SCHED_FIFO. ``compile`` stands in for ``sepcompile.compile`` (tests).
    """

    suite: str = "dev"
    layers: Sequence[BenchLayer] = ()
    only: Sequence[str] = ()
    blocks: Sequence[Block] = ()
    peers: Sequence[str] = ()
    ours: bool = True
    peer_python: str = sys.executable
    target: str = "native"
    threads: Sequence[int] = (1,)
    rounds: int = 8
    launches: int = 1
    budget_ms: float = 25.0
    warm_ms: float = 4.0
    isa: str = ""
    pin: bool = False
    realtime: bool = False
    seed: int = 0
    ceilings: bool = True
    answer_timeout: float = 120.0
    work_dir: Path | None = None
    progress: Callable[[str], None] = field(default=say_nothing, repr=False)
    compile: Callable[..., object] | None = field(default=None, repr=False)
    # name -> command line, for peers that are not ours to know (tests)
    commands: Mapping[str, list[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        unknown = [p for p in self.peers if p not in MODULES and p not in self.commands]
        if unknown:
            raise BenchError(f"unknown peer {', '.join(unknown)}; known: {', '.join(n for n in MODULES if n != OURS)}")
        if self.isa and self.isa not in ISA_ENV:
            raise BenchError(f"isa is {self.isa!r}; a limit can be one of {', '.join(ISA_ENV)}")
        if not self.threads or min(self.threads) < 1:
            raise BenchError(f"threads is {tuple(self.threads)}; every count must be at least 1")
        if self.rounds < 1 or self.launches < 1 or self.budget_ms <= 0:
            raise BenchError("rounds and launches must be at least 1, budget_ms above 0")

    def to_json(self) -> dict[str, Any]:
        """What belongs into a report: no paths, no callables."""
        return {
            "suite": "layers given" if self.layers else self.suite,
            "threads": list(self.threads),
            "rounds": self.rounds,
            "launches": self.launches,
            "budget_ms": self.budget_ms,
            "warm_ms": self.warm_ms,
            "target": self.target,
            "isa": self.isa,
            "pinned": self.pin,
            "realtime": self.realtime,
            "seed": self.seed,
        }
