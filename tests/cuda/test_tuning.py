"""Tuning for a GPU: its space, and a search whose candidates run on the stand-in driver. Its times are made up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.frontend import ImportedLayer
from sepcompile.schedule import cuda
from sepcompile.targets import get_target
from sepcompile.tuning.build import Subject
from sepcompile.tuning.families import build_space
from sepcompile.tuning.job import JobOptions, tune_subject
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings
from tests.compile.cases import expected, form_of, with_integers
from tests.cuda.cases import compiled, emulated_layer, imported, integers

LAYERS = [
    ("SeparableConv2D", {"filters": 40, "kernel_size": 3, "padding": "same", "dtype": "float16"}, (7, 9, 64)),
    ("SeparableConv2D", {"filters": 300, "kernel_size": 3, "data_format": "channels_first"}, (30, 14, 14)),
    ("DepthwiseConv1D", {"kernel_size": 31, "padding": "same", "dtype": "bfloat16"}, (50, 24)),
]


@pytest.mark.parametrize(("name", "config", "shape"), LAYERS)
def test_the_space_holds_the_heuristics_records(name: str, config: dict[str, Any], shape: tuple[int, ...]) -> None:
    form, target = form_of(imported(name, config, shape)), get_target("cuda-sm_90")
    assert target.gpu is not None
    for batch in (1, None, 128):
        space = build_space(form, target, batch)
        assert space.record(space.start) == cuda.choose(form, target.gpu, batch)
        points = list(space.points())
        assert len(points) > 3
        for point in points:
            cuda.check_record(space.record(point), form)
            assert 0 < space.cost(point) < np.inf
        known = {space.record(point) for point in points}
        assert set(cuda.candidates(form)) <= known


class EmulatedGpu(Runner):
    """Runs each candidate's kernels on the stand-in driver and checks them; times follow the number of threads."""

    def __init__(self, layer: ImportedLayer) -> None:
        self.layer, self.asked = layer, []  # type: ignore[var-annotated]
        self.x = integers(layer, 2)
        self.reference = expected(layer, self.x)[0]

    @property
    def capacity(self) -> int:
        return 1

    def machine(self) -> MachineIdentity:
        return MachineIdentity("cuda", "stand-in GPU", "0", 1)

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        future: Future[Measurement] = Future()
        record = CudaSchedule.from_json(candidate.record)
        if record not in self.asked:
            self.asked.append(record)
            y = emulated_layer(self.layer, compiled(self.layer, record))(self.x)
            if not np.array_equal(y.astype(np.float64), self.reference):
                future.set_result(Measurement.failed("wrong", "it differs from the reference"))
                return future
        mine, other = ((_seconds(each.record),) * settings.rounds for each in (candidate, incumbent))
        future.set_result(Measurement(mine, other, None, 0.0, "stand-in"))
        return future

    def close(self) -> None:
        pass


def _seconds(record: Any) -> float:
    return 1e-3 / (int(record["threads_x"]) * int(record["threads_y"]))


@pytest.fixture
def layer(driver: Any) -> Iterator[ImportedLayer]:
    yield with_integers(imported(*LAYERS[0]))


def test_a_search_goes_through(layer: ImportedLayer, tmp_path: Path) -> None:
    subject = Subject(layer.program, layer.weights, get_target("cuda-sm_90"))
    gpu = EmulatedGpu(layer)
    found = tune_subject(subject, JobOptions(tmp_path / "tuned.sqlite3", trials=3, seed=1), gpu)
    assert len(gpu.asked) >= 2
    assert CudaSchedule.from_json(found.record.schedule) in gpu.asked
