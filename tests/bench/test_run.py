"""The driver with fake peers: who is reported how, that the run goes on, and that processes stand still in between."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sepcompile.bench import cases, main, race
from sepcompile.bench.errors import BenchError, PeerError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.options import BenchOptions
from sepcompile.bench.peers import MODULES, OURS, REQUIRES
from sepcompile.bench.peers.base import Settings
from sepcompile.bench.process import PeerProcess, environment
from sepcompile.bench.report import BenchReport, Result

FAKE = str(Path(__file__).with_name("fake_peer.py"))
LAYERS = (
    BenchLayer("first", "SeparableConv2D", (1, 6, 6, 4), {"filters": 3, "kernel_size": 3, "padding": "same"}),
    BenchLayer("second", "DepthwiseConv1D", (1, 12, 4), {"kernel_size": 3}),
    BenchLayer("third", "DepthwiseConv2D", (1, 6, 6, 4), {"kernel_size": 3}),
)


def options(*kinds: str, **changes: object) -> BenchOptions:
    commands = {kind: [sys.executable, FAKE, kind] for kind in kinds if kind != OURS}
    if OURS in kinds:
        commands[OURS] = [sys.executable, FAKE, "ours"]
    values: dict[str, object] = {
        "layers": LAYERS, "peers": [k for k in kinds if k != OURS], "ours": OURS in kinds, "rounds": 2,
        "budget_ms": 0.3, "warm_ms": 0.1, "ceilings": False, "commands": commands,
    }  # fmt: skip
    return BenchOptions(**{**values, **changes})  # type: ignore[arg-type]


def result(report: BenchReport, peer: str, layer: str) -> Result:
    return next(r for r in report.results if r.peer == peer and r.layer == layer)


def test_all_peers_run_every_round_and_rows_compare_them() -> None:
    report = main.run(options(OURS, "one", "two", rounds=3, launches=2, threads=(1, 2)))
    assert {(r.layer, r.peer, r.threads) for r in report.results} == {
        (layer.name, peer, n) for layer in LAYERS for peer in (OURS, "one", "two") for n in (1, 2)
    }
    one = result(report, "one", "first")
    assert [(r.launch, r.index) for r in one.rounds] == [(launch, i) for launch in (0, 1) for i in range(3)]
    assert one.min_us is not None and one.median_us is not None and one.min_us <= one.median_us
    assert one.evidence == {"good": "fake_kernel"}
    assert [(row.threads, row.layer) for row in report.rows] == [(n, la.name) for n in (1, 2) for la in LAYERS]
    assert all(row.best_peer in ("one", "two") and row.speedup_min for row in report.rows)
    assert report.summaries[0].rows == len(LAYERS)
    assert {p.status for p in report.peers} == {"ok"} and report.peers[0].version == "1.2.3"


def test_a_peer_that_does_not_start_is_reported_by_name_and_reason() -> None:
    report = main.run(options("one", "absent"))
    status = {p.name: p for p in report.peers}
    assert status["absent"].status == "failed"
    assert "no module named libfake" in status["absent"].reason
    assert any("absent" in w and "libfake" in w for w in report.warnings)
    assert result(report, "one", "third").status == "ok"


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("picky", "unsupported", "no such layer here"),
        ("clumsy", "failed", "ValueError: could not build it"),
        ("mortal", "failed", "SIGSEGV"),
    ],
)
def test_one_bad_layer_costs_that_layer_only(kind: str, status: str, reason: str) -> None:
    report = main.run(options("one", kind))
    bad = result(report, kind, "second")
    assert bad.status == status and reason in bad.reason and bad.min_us is None
    for layer in ("first", "third"):
        assert result(report, kind, layer).status == "ok" and result(report, kind, layer).min_us
    assert all(result(report, "one", layer.name).status == "ok" for layer in LAYERS)


def test_wrong_output_voids_the_time_and_warns() -> None:
    report = main.run(options(OURS, "wrong"))
    bad = result(report, "wrong", "first")
    assert bad.status == "wrong" and "off by" in bad.reason and bad.min_us is None and not bad.rounds
    assert {r.peer for r in report.wrong()} == {"wrong"}
    assert all(row.best_peer == "" and row.speedup_min is None for row in report.rows)
    assert any("wrong: its output is off" in w for w in report.warnings)


def test_output_is_checked_again_after_the_rounds() -> None:
    report = main.run(options("drifting"))
    assert result(report, "drifting", "first").status == "wrong"
    assert "after the rounds" in result(report, "drifting", "first").reason


def test_only_right_setups_are_timed() -> None:
    report = main.run(options("half-wrong"))
    found = result(report, "half-wrong", "first")
    assert found.status == "ok" and {r.setup for r in found.rounds} == {"good"}


def test_lower_precision_is_shown_but_does_not_compete() -> None:
    report = main.run(options(OURS, "coarse"))
    found = result(report, "coarse", "first")
    assert found.status == "ok" and found.precision == "bfloat16" and not found.competes
    assert report.rows[0].best_peer == ""


def test_peers_that_cannot_be_limited_do_not_compete() -> None:
    report = main.run(options(OURS, "one", isa="x86-64-v3"))
    assert not result(report, "one", "first").competes
    assert "cannot be limited" in next(p.isa for p in report.peers if p.name == "one")
    assert report.options["target"] == "x86-64-v3"


def test_failing_compile_is_the_reason_of_our_rows(tmp_path: Path) -> None:
    def compile_(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no code today")

    report = main.run(options("one", ours=True, compile=compile_, work_dir=tmp_path))
    ours = [r for r in report.results if r.peer == OURS]
    assert len(ours) == len(LAYERS)
    assert all(r.status == "failed" and "no code today" in r.reason for r in ours)
    assert result(report, "one", "first").status == "ok"


def test_compile_gets_the_layer_as_keras_says_it(tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def compile_(source: dict[str, Any], **kwargs: Any) -> None:
        shapes = {name: array.shape for name, array in kwargs["weights"].items()}
        seen[source["config"]["name"]] = (source["class_name"], kwargs["input_shape"], kwargs["target"], shapes)

    for layer in LAYERS:
        assert not cases.compile_ours(layer, tmp_path / layer.name, "x86-64-v3", 0, compile_)
    weights = {"depthwise_kernel": (3, 3, 4, 1), "pointwise_kernel": (1, 1, 4, 3), "bias": (3,)}
    assert seen["first"] == ("SeparableConv2D", (1, 6, 6, 4), "x86-64-v3", weights)
    assert seen["second"] == ("DepthwiseConv1D", (1, 12, 4), "x86-64-v3", {"depthwise_kernel": (3, 4, 1), "bias": (4,)})


def test_garbage_instead_of_an_answer_ends_the_peer() -> None:
    settings = Settings("garbage")
    process = PeerProcess(settings, sys.executable, [sys.executable, FAKE, "garbage"])
    with pytest.raises(PeerError, match="this is not an answer"):
        process.start()
    assert not process.alive


def test_a_peer_that_does_not_answer_is_ended() -> None:
    process = PeerProcess(Settings("silent"), sys.executable, [sys.executable, FAKE, "silent"])
    with pytest.raises(PeerError, match="no answer in time"):
        process.start(timeout=0.2)
    assert not process.alive


def test_a_peer_stands_still_between_questions() -> None:
    process = PeerProcess(Settings("one"), sys.executable, [sys.executable, FAKE, "one"])
    try:
        process.start()
        assert _state(process) == "T"
        process.ask("info")
        assert _state(process) == "T"
    finally:
        process.close()


def test_a_stopped_peer_dies_with_its_driver() -> None:
    script = f"""
import sys
from sepcompile.bench.process import PeerProcess
from sepcompile.bench.peers.base import Settings
process = PeerProcess(Settings("one"), sys.executable, [sys.executable, {FAKE!r}, "one"])
process.start()
print(process._process.pid, flush=True)
sys.stdin.read()
"""
    root = str(Path(FAKE).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as driver:
        assert driver.stdout is not None
        peer = Path("/proc") / driver.stdout.readline().strip()
        assert peer.exists()
        driver.kill()
    deadline = time.monotonic() + 30
    while peer.exists() and "State:\tZ" not in (peer / "status").read_text():
        assert time.monotonic() < deadline, "the peer outlived its driver"
        time.sleep(0.01)


def _state(process: PeerProcess) -> str:
    text = Path(f"/proc/{process._process.pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0]


def test_the_first_peer_changes_with_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str]] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self, layer: BenchLayer) -> None: ...

        def verify(self, layer: BenchLayer) -> None: ...

        def measure(self, layer: BenchLayer, launch: int, index: int) -> None:
            seen.append((index, self.name))

    betweens: list[int] = []
    racers = [Recorder("a"), Recorder("b")]
    race.run_launch(racers, LAYERS[:1], options("one"), 0, lambda: betweens.append(1))  # type: ignore[arg-type]
    assert seen == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert len(betweens) == 2


def test_bad_options_are_refused_before_any_work() -> None:
    for change in ({"peers": ["tensorrt"]}, {"isa": "x86-64-v9"}, {"threads": (0,)}, {"rounds": 0}):
        with pytest.raises(BenchError):
            BenchOptions(**change)  # type: ignore[arg-type]


def test_absent_peers_are_named_with_what_is_missing() -> None:
    missing = main.describe_peers(sys.executable)
    assert set(missing) == set(MODULES) - {OURS} == set(REQUIRES) - {OURS}
    for name, reason in missing.items():
        assert not reason or any(module in reason for module in REQUIRES[name])


def test_threads_and_the_isa_limit_reach_the_environment() -> None:
    found = environment(Settings("openvino-f32", threads=2, isa="x86-64-v3"))
    assert found["OMP_NUM_THREADS"] == "2" and found["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "ONEDNN_MAX_CPU_ISA" not in environment(Settings("openvino-f32"))
