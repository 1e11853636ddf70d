"""The fleet runner, with a real scheduler and workers as processes of this machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from sepcompile.errors import TuningError
from sepcompile.tuning.fleet import FleetPlace, FleetRunner
from sepcompile.tuning.remote import DeviceAccessError
from sepcompile.tuning.runner import Candidate, Settings
from tests.tuning import misdeeds
from tests.tuning.cluster import LABEL, Cluster, cluster

QUICK = Settings(rounds=4, round_seconds=0.001, timeout_s=20.0, memory_bytes=1 << 30)
# Calls that sleep for 20 ms: a measurement takes seconds, and no CPU.
SLEEP_US, ASLEEP = 20_000, Settings(rounds=10, round_seconds=0.1, timeout_s=20.0, stop_ratio=0.0)
# So long that the processor time beside it counts for little, on a machine that has other things to do as well.
LONG_ASLEEP = Settings(rounds=10, round_seconds=0.2, timeout_s=20.0, stop_ratio=0.0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers with the label, and one without."""
    with cluster(tmp_path_factory.mktemp("fleet"), "one", "two") as found:
        found.add_worker("other", "another-board=1")
        yield found


@pytest.fixture
def asleep(good: Path, tmp_path: Path) -> Candidate:
    return misdeeds.candidate(misdeeds.sleepy(good, tmp_path / "asleep", SLEEP_US))


# ---- places --------------------------------------------------------------------------------------------------------


def test_a_place_is_a_url() -> None:
    place = FleetPlace.parse("dask://boards.local?label=cortex-a72&ca=a.pem&cert=b.pem&key=c.pem")
    assert place == FleetPlace("boards.local", 8786, "cortex-a72", "a.pem", "b.pem", "c.pem")
    assert place.address == "tls://boards.local:8786"
    assert FleetPlace.parse("dask://[::1]:9000?label=a").address == "tcp://[::1]:9000"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dask://boards.local:8786?label=a", "anybody on the way can run programs"),
        ("dask://10.0.0.7?label=a", "insecure=yes"),
        ("dask://localhost.evil.example?label=a", "without TLS"),
        ("dask://localhost?label=a&ca=a.pem", "ca without the rest"),
        ("dask://localhost?label=a&colour=red", "unknown option 'colour'"),
        ("dask://localhost", "expected such as"),
        ("dask://localhost?label=", "expected such as"),
        ("dask://localhost:x?label=a", "expected such as"),
        ("dask://localhost?label=a&insecure=perhaps", "expected such as"),
        ("tcp://localhost?label=a", "expected such as"),
    ],
)
def test_what_is_no_place_or_not_safe_is_refused(url: str, words: str) -> None:
    with pytest.raises(TuningError, match=words):
        FleetPlace.parse(url)


def test_plain_tcp_elsewhere_must_be_asked_for() -> None:
    assert FleetPlace.parse("dask://10.0.0.7?label=a&insecure=yes").address == "tcp://10.0.0.7:8786"
    for host in ("localhost", "127.0.0.1", "[::1]"):
        FleetPlace.parse(f"dask://{host}?label=a")


# ---- measuring -----------------------------------------------------------------------------------------------------


def test_measures_on_labelled_workers_and_counts_them(fleet: Cluster, good: Path, tmp_path: Path) -> None:
    slow = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "slow", BEFORE_RUN="spin_us(300)"))
    bad = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "bad", BEFORE_RUN="*(volatile int*)0 = 1"))
    right = misdeeds.candidate(good)
    with FleetRunner(fleet.url) as runner:
        assert runner.capacity == 2
        assert runner.machine().cpus >= 1
        futures = [runner.submit(right, slow, QUICK) for _ in range(4)]
        crashed = runner.submit(bad, right, QUICK).result()
        results = [future.result() for future in futures]
    assert crashed.failure is not None and crashed.failure.kind == "crash"
    assert all(result.ok and result.comparison.ratio < 0.9 for result in results), results
    places = {result.place for result in results}
    assert places <= {f"fleet {LABEL}, worker one", f"fleet {LABEL}, worker two"}


def test_two_workers_measure_a_batch_at_once(fleet: Cluster, tmp_path: Path) -> None:
    """A batch of layers where measuring is what takes the time; the figure is `benchmarks/fleet_speedup.py`'s."""
    layers = [misdeeds.compile_good(tmp_path / name, name=name) for name in ("first", "second", "third", "fourth")]
    batch = [misdeeds.candidate(misdeeds.sleepy(path, path.with_name(path.name + "-z"), SLEEP_US)) for path in layers]
    fleet.add_worker("lone", "lone-board=1")
    times = {}
    for label in ("lone-board", LABEL):
        with FleetRunner(fleet.url.replace(LABEL, label)) as runner:
            runner.machine()
            start = time.monotonic()
            futures = [runner.submit(artifact, artifact, LONG_ASLEEP) for artifact in batch]
            assert all(future.result().ok for future in futures)
            times[label] = time.monotonic() - start
    speedup = times["lone-board"] / times[LABEL]
    print(
        f"{len(batch)} layers: one worker {times['lone-board']:.1f} s, two workers {times[LABEL]:.1f} s: {speedup:.2f}x"
    )
    assert speedup >= 1.4


def test_a_worker_that_is_killed_costs_nothing(asleep: Candidate, tmp_path: Path) -> None:
    with cluster(tmp_path, "one", "two") as fleet, FleetRunner(fleet.url) as runner:
        runner.machine()
        futures = [runner.submit(asleep, asleep, ASLEEP) for _ in range(4)]
        time.sleep(2.0)
        fleet.kill("two")
        results = [future.result(120) for future in futures]
        assert all(result.ok for result in results), results
        assert {result.place.split()[-1] for result in results} <= {"one", "two"}
        assert [result.place.split()[-1] for result in results].count("one") >= 3
        deadline = time.monotonic() + 10
        while runner.capacity != 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        fleet.add_worker("three")
        assert runner.submit(asleep, asleep, QUICK).result(60).ok


def test_a_fleet_without_workers_ends_the_search_with_words(asleep: Candidate, tmp_path: Path) -> None:
    with cluster(tmp_path, "one") as fleet, FleetRunner(fleet.url, patience_s=3.0) as runner:
        runner.machine()
        future = runner.submit(asleep, asleep, ASLEEP)
        fleet.kill("one")
        with pytest.raises(DeviceAccessError, match=f"no worker for 3 s: no worker of .* has the label '{LABEL}'"):
            future.result(60)


def test_a_scheduler_that_goes_ends_the_search_with_words(asleep: Candidate, tmp_path: Path) -> None:
    with cluster(tmp_path, "one") as fleet, FleetRunner(fleet.url, patience_s=3.0) as runner:
        runner.machine()
        future = runner.submit(asleep, asleep, ASLEEP)
        fleet.kill("scheduler")
        with pytest.raises(TuningError, match=r"is gone|no worker for"):
            future.result(60)


def test_an_absent_label_names_those_that_are_there(fleet: Cluster) -> None:
    with pytest.raises(DeviceAccessError, match=f"no worker .* label 'riscv': its . workers have .*{LABEL}"):
        FleetRunner(fleet.url.replace(LABEL, "riscv"))


def test_no_scheduler_is_unreachable() -> None:
    with pytest.raises(DeviceAccessError, match="cannot be reached"):
        FleetRunner("dask://127.0.0.1:1?label=a", connect_s=1.0)


def test_closing_cancels_what_waits(fleet: Cluster, asleep: Candidate) -> None:
    runner = FleetRunner(fleet.url)
    futures = [runner.submit(asleep, asleep, ASLEEP) for _ in range(6)]
    runner.close()
    runner.close()
    assert all(future.done() for future in futures) and any(future.cancelled() for future in futures)


@pytest.mark.slow
def test_a_stopped_worker_is_lost_to_another(asleep: Candidate, tmp_path: Path) -> None:
    """A machine that hangs answers nothing, and closes no connection."""
    with cluster(tmp_path, "one", "two") as fleet, FleetRunner(fleet.url) as runner:
        runner.machine()
        futures = [runner.submit(asleep, asleep, ASLEEP) for _ in range(2)]
        time.sleep(1.5)
        fleet.processes["two"].send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        fleet.kill("two")  # as the scheduler's worker-ttl would find
        assert all(future.result(120).ok for future in futures)


# ---- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate of its own for 127.0.0.1, and the same of a stranger."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "theirs"):
        ca = trustme.CA()
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        ca.cert_pem.write_to_path(folder / f"{name}-ca.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return folder


def test_tls_lets_in_who_has_a_certificate(certificates: Path, good: Path, tmp_path: Path) -> None:
    def options(ca: str, own: str) -> str:
        return f"&ca={certificates}/{ca}-ca.pem&cert={certificates}/{own}.pem&key={certificates}/{own}.key"

    flags = ("--tls-ca-file", "ours-ca.pem", "--tls-cert", "ours.pem", "--tls-key", "ours.key")
    tls = tuple(flag if flag.startswith("--") else str(certificates / flag) for flag in flags)
    right = misdeeds.candidate(good)
    with cluster(tmp_path, "one", tls=tls) as fleet:
        with FleetRunner(fleet.url + options("ours", "ours")) as runner:
            assert runner.measure(right, right, QUICK).ok
        for stranger in (options("ours", "theirs"), options("theirs", "ours"), ""):
            with pytest.raises(DeviceAccessError, match="cannot be reached"):
                FleetRunner(fleet.url + stranger, connect_s=2.0)
