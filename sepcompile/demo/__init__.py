"""The demonstration: the separable layers of two well-known networks, compiled, verified and timed on this machine.

Each ``.json`` file beside this module is one network: a title and the layers as Keras serializes them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_FOLDER = Path(__file__).parent
_SECONDS = 0.2  # of calls per layer


@dataclass(frozen=True)
class Network:
    """Layers as Keras configs; ``name`` is the file's name and the folder of its artifacts."""

    name: str
    title: str
    layers: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Row:
    """What was found for one layer. Sizes in bytes, times in seconds; the error is the largest absolute difference from
    the float64 reference, ``of_tolerance`` that error as a fraction of what float32 arithmetic may be off."""

    network: str
    layer: str
    path: Path
    target: str
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    library_bytes: int
    artifact_bytes: int
    compile_seconds: float
    passed: bool
    error: float
    of_tolerance: float
    call_seconds: float


def names() -> list[str]:
    """The networks of the demonstration, the largest last."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def network(name: str) -> Network:
    """A network of ``names()``."""
    data = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Network(name, data["title"], tuple(data["layers"]))


def run(networks: Sequence[Network], output: Path, threads: int | None, step: Callable[[str], None]) -> Iterator[Row]:
    """Compile every layer below ``output``; ``step`` is told each layer's name before its turn.

    Kernels are kept only for the time of one run, so that times are those of a first use; layers of one shape share
    their kernels, as they do in anybody's network.
    """
    from sepcompile.codegen.worker import shared_worker

    shared_worker().start()
    with TemporaryDirectory(prefix="sepcompile-demo-") as cache:
        for found in networks:
            for config in found.layers:
                layer = str(config["config"]["name"])
                step(f"{found.name} {layer}")
                yield _run_layer(found.name, layer, config, output / found.name / layer, threads, Path(cache))


def _run_layer(net: str, layer: str, config: dict[str, Any], output: Path, threads: int | None, cache: Path) -> Row:
    from sepcompile import api

    start = time.perf_counter()
    artifact = api.compile(config, output=output, cache=cache)
    seconds = time.perf_counter() - start
    report = api.verify(artifact.path)
    manifest = api.manifest(artifact.path)
    loaded = artifact.load(threads=threads)
    (variant,) = manifest.variants
    test = report.variants[0].selftest
    return Row(
        network=net,
        layer=layer,
        path=artifact.path,
        target=variant.target,
        input_shape=manifest.input.shape,
        output_shape=manifest.output.shape,
        library_bytes=manifest.files[variant.library].nbytes,
        artifact_bytes=report.nbytes,
        compile_seconds=seconds,
        passed=report.passed,
        error=test.max_error if test else float("nan"),
        of_tolerance=test.worst if test else float("nan"),
        call_seconds=loaded.benchmark(seconds=_SECONDS).median,
    )
