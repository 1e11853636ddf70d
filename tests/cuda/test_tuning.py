"""Tuning for a GPU: its space, and a search whose candidates run on the stand-in driver. Its times are made up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sepcompile
from sepcompile.codegen.artifact import link_variant, write_artifact
from sepcompile.codegen.cuda_lower import cuda_source
from sepcompile.codegen.plan import Compiled
from sepcompile.codegen.selftest import make_selftest
from sepcompile.codegen.variant import compile_variant, read_program
from sepcompile.compute.cuda_record import CudaSchedule
from sepcompile.errors import TargetError, UnsupportedError
from sepcompile.frontend import ImportedLayer
from sepcompile.schedule import cuda
from sepcompile.targets import get_target
from sepcompile.tuning.build import Subject
from sepcompile.tuning.device import gpu
from sepcompile.tuning.families import build_space
from sepcompile.tuning.job import JobOptions, tune_subject
from sepcompile.tuning.local import LocalRunner
from sepcompile.tuning.remote import START
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings
from tests.compile.cases import expected, form_of, with_integers
from tests.cuda.cases import compiled, emulated_layer, imported, integers
from tests.cuda.cases import cuda_source as case_source
from tests.cuda.emulator import emulated, standin_as_driver

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
        return MachineIdentity("x86_64", "stand-in", "0", 1, "stand-in GPU")

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


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device program finds the stand-in driver (and TVM's compiler does not), and images are made for it."""
    path = standin_as_driver()
    start = f"import ctypes, os\nos.environ['LD_LIBRARY_PATH'] = {str(path.parent)!r}\nctypes.CDLL({str(path)!r})\n"
    monkeypatch.setattr("sepcompile.tuning.local.START", start + START)

    def build(program: Any, weights: Any, *arguments: Any, **options: Any) -> Compiled:
        made = compile_variant(program, weights, *arguments, **options)
        form, _ = read_program(program, weights, options.get("precision", "float32"))
        return emulated(made, cuda_source(form, CudaSchedule.from_json(made.schedule), options["symbol"]))

    monkeypatch.setattr("sepcompile.tuning.build.compile_variant", build)


def tiny() -> ImportedLayer:
    return imported("DepthwiseConv1D", {"kernel_size": 3, "dtype": "float16"}, (6, 8))


SMALL = {"class_name": "SeparableConv1D", "config": {"name": "small", "filters": 8, "kernel_size": 3}}


@pytest.mark.usefixtures("machine")
def test_tune_measures_on_the_gpu_and_compile_takes_the_best(tmp_path: Path) -> None:
    """From the command's function to the artifact: built here, timed by the loader's graph replays, stored, used."""
    database, shape = tmp_path / "tuned.sqlite3", (1, 12, 16)
    report = sepcompile.tune(SMALL, shape, "cuda-sm_90", trials=3, database=database, cache=False)
    (tuned,) = report.tuned
    assert tuned.machine.gpu == "stand-in 0"
    assert len(tuned.search.trials) == 3 and tuned.record.seconds > 0
    assert all(trial.failure is None for trial in tuned.search.trials), tuned.search.trials
    variant = variant_of(tmp_path / "a", shape, database)
    assert variant.schedule == dict(tuned.record.schedule)
    assert ("stand-in 0" in variant.schedule_source) == tuned.record.gain


def variant_of(output: Path, shape: Any, database: Path, precision: str = "float32") -> Any:
    """What ``compile`` makes of the small layer with a database."""
    artifact = sepcompile.compile(
        SMALL, shape, "cuda-sm_90", output=output, database=database, cache=False, precision=precision
    )
    (variant,) = sepcompile.inspect(artifact.path).variants
    return variant


class UnemulatedGpu(EmulatedGpu):
    """Times alone, of which the heuristic's is the longest."""

    def __init__(self) -> None:
        self.default: object = None

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        self.default = self.default or incumbent.record
        mine, other = ((2e-3 if r == self.default else 1e-3,) * 12 for r in (candidate.record, incumbent.record))
        future: Future[Measurement] = Future()
        future.set_result(Measurement(mine, other, None, 0.0, "stand-in"))
        return future


def test_each_precision_is_tuned_and_found_apart(tmp_path: Path) -> None:
    database, shape = tmp_path / "tuned.sqlite3", (4, 60, 16)
    (tuned,) = sepcompile.tune(
        SMALL, shape, "cuda-sm_90", trials=2, database=database, cache=False, precision="tf32", runner=UnemulatedGpu()
    ).tuned
    assert tuned.record.gain
    found = variant_of(tmp_path / "a", shape, database, "tf32")
    assert found.schedule == dict(tuned.record.schedule)
    assert "stand-in GPU" in found.schedule_source
    assert variant_of(tmp_path / "b", shape, database).schedule_source == "heuristic"  # of float32
    assert variant_of(tmp_path / "c", (8, 60, 16), database, "tf32").schedule_source == "heuristic"  # of another batch
    for precision, word in (("tf32", "cuda-sm_75"), ("fp8", "fp8")):
        with pytest.raises(UnsupportedError, match=word):
            sepcompile.tune(SMALL, shape, "cuda-sm_75", database=database, precision=precision, runner=UnemulatedGpu())


def candidates(layer: ImportedLayer, place: Path, change: Callable[[str], str]) -> list[Candidate]:
    """A right artifact, and one whose kernels were changed."""
    made = []
    for name, edit in (("right", str), ("changed", change)):
        built = compiled(layer)
        source = edit(case_source(layer, built))
        assert name == "right" or source != case_source(layer, built)
        target, program = get_target("cuda-sm_90"), layer.program
        linked = link_variant(
            emulated(built, source), name=program.name, family="cuda", arch=target.arch, triple=target.triple,
            requires=target.requires,
        )  # fmt: skip
        write_artifact(
            place / name, name=program.name, layer_info={}, ir_text="", input=program.input, output=program.output,
            variants=[linked], weights_drawn=False, selftest=make_selftest(program, layer.weights), tool_versions={},
        )  # fmt: skip
        made.append(Candidate.of(place / name, built.schedule))
    return made


@pytest.mark.usefixtures("machine")
def test_a_dynamic_batch_is_timed_as_schedules_are_chosen_for_it(tmp_path: Path) -> None:
    assert gpu.USUAL_BATCH == cuda.USUAL_BATCH
    right, same = candidates(tiny(), tmp_path, lambda source: source + " ")
    with LocalRunner() as runner:
        outcome = runner.measure(same, right, Settings(rounds=4))
        assert outcome.failure is None
        assert len(outcome.seconds) == len(outcome.incumbent_seconds) == 4


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda source: re.sub(r"(O_ptr\[.*= E_local)", r"if (threadIdx.y) \1", source), "wrong"),
        (lambda source: re.sub(r"\{", "{ *(volatile int*)8 = 1;", source, count=1), "crash"),
        (lambda source: re.sub(r"\{", '{ for (;;) asm volatile("");', source, count=1), "hang"),
    ],
)
def test_candidates_that_misbehave_are_told(change: Callable[[str], str], kind: str, tmp_path: Path) -> None:
    right, changed = candidates(tiny(), tmp_path, change)
    with LocalRunner() as runner:
        outcome = runner.measure(changed, right, Settings(rounds=2, timeout_s=3))
        assert outcome.failure is not None and outcome.failure.kind == kind, outcome
        assert runner.measure(right, right, Settings(rounds=2)).ok


def test_a_machine_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cuda-sm_90.*no NVIDIA GPU"):
        sepcompile.tune(SMALL, (2, 20, 16), "cuda-sm_90", trials=1, database=tmp_path / "d.sqlite3", cache=False)


def test_a_search_goes_through(layer: ImportedLayer, tmp_path: Path) -> None:
    subject = Subject(layer.program, layer.weights, get_target("cuda-sm_90"))
    gpu = EmulatedGpu(layer)
    found = tune_subject(subject, JobOptions(tmp_path / "tuned.sqlite3", trials=3, seed=1), gpu)
    assert len(gpu.asked) >= 2
    assert CudaSchedule.from_json(found.record.schedule) in gpu.asked
