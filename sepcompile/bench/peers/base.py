"""What an adapter is: it tells about its library and turns one layer into calls that can be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sepcompile.bench.layers import Array, BenchLayer, CaseData, Geometry


@dataclass(frozen=True)
class Settings:
    """What the driver asks of a peer's process. ``isa`` is a level such as ``x86-64-v3``, or empty for no limit."""

    peer: str
    threads: int = 1
    isa: str = ""
    cpus: tuple[int, ...] = ()
    realtime: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cpus": list(self.cpus)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        return cls(**{**values, "cpus": tuple(values.get("cpus", ()))})


@dataclass(frozen=True)
class PeerInfo:
    """What a library says of itself; ``threads`` is read back from it, 0 where it cannot say."""

    version: str
    precision: str = "float32"
    threads: int = 0
    notes: str = ""


@dataclass(frozen=True)
class Case:
    """One layer as a peer's process gets it."""

    layer: BenchLayer
    geo: Geometry
    data: CaseData
    folder: Path


@dataclass(frozen=True)
class Candidate:
    """One way to set a peer up for a layer. ``call`` is what is timed; ``output`` gives the last result as NHWC.

    ``evidence`` is what the library says it runs (names of its kernels), where it can be asked.
    """

    label: str
    call: Callable[[], object]
    output: Callable[[], Array]
    evidence: str = ""
    keep: tuple[object, ...] = field(default=(), repr=False)


class Adapter(Protocol):
    """One library, made ready for the settings of this process."""

    def info(self) -> PeerInfo: ...

    def prepare(self, case: Case) -> list[Candidate]: ...
