"""The ssh runner: with a stand-in for the client that runs the remote command here, and with a real server."""

from __future__ import annotations

import getpass
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sepcompile.errors import TuningError
from sepcompile.tuning import remote
from sepcompile.tuning.remote import DeviceAccessError
from sepcompile.tuning.runner import Candidate, Settings
from sepcompile.tuning.ssh import SshPlace, SshRunner
from tests.tuning import misdeeds

FAKE = str(Path(__file__).with_name("fake_ssh"))
QUICK = Settings(rounds=4, round_seconds=0.001, timeout_s=10.0, memory_bytes=1 << 30)


def fake(host: str = "device", python: str = sys.executable, **options: float) -> SshRunner:
    return SshRunner(SshPlace(host, python=python), ssh=FAKE, **options)  # type: ignore[arg-type]


@pytest.fixture
def pair(good: Path, tmp_path: Path) -> tuple[Candidate, Candidate]:
    """Two artifacts of the same layer whose calls take 200 and 100 microseconds longer than they need."""
    slow = misdeeds.spoil(good, tmp_path / "slow", BEFORE_RUN="spin_us(200)")
    fast = misdeeds.spoil(good, tmp_path / "fast", BEFORE_RUN="spin_us(100)")
    return misdeeds.candidate(slow), misdeeds.candidate(fast)


# ---- places --------------------------------------------------------------------------------------------------------


def test_a_place_is_a_url() -> None:
    place = SshPlace.parse("ssh://pi@board.local:2222/opt/py/bin/python3?config=/c&identity=/k")
    assert place == SshPlace("board.local", "pi", 2222, "/opt/py/bin/python3", "/c", "/k")
    assert str(place) == "pi@board.local:2222"
    command = place.command("ssh", 10)
    assert command[-3:-1] == ["--", "board.local"] and command[-1].startswith("exec /opt/py/bin/python3 -c ")
    for flag, value in (("-F", "/c"), ("-i", "/k"), ("-l", "pi"), ("-p", "2222"), ("-o", "BatchMode=yes")):
        assert (flag, value) in set(itertools.pairwise(command))
    assert SshPlace.parse("ssh://board") == SshPlace("board")
    assert SshPlace.parse("ssh://[fe80::1]:22/").host == "fe80::1"


@pytest.mark.parametrize(
    "url",
    [
        "ssh://", "http://board", "ssh://-oProxyCommand=x", "ssh://pi:secret@board", "ssh://-l@board", "ssh://a b",
        "ssh://board:port", "ssh://board?x=1", "ssh://board?config", "ssh://bo;ard", "board",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(TuningError, match=r"runner .*(expected|unknown option)"):
        SshPlace.parse(url)


# ---- a stand-in for the client -------------------------------------------------------------------------------------


def test_measures_and_sends_each_artifact_once(pair: tuple[Candidate, Candidate], monkeypatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_SSH_LOG", str(log))
    sent: list[str] = []
    put = remote.put_request
    monkeypatch.setattr(remote, "put_request", lambda artifact: (sent.append(artifact.digest), put(artifact))[1])
    slow, fast = pair
    with fake() as runner:
        assert runner.machine().cpus >= 1
        there = runner.measure(fast, slow, QUICK)
        back = runner.measure(slow, fast, QUICK)
    assert there.ok and back.ok, (there.failure, back.failure)
    assert there.comparison.ratio < 0.9 < 1.1 < back.comparison.ratio
    assert len(there.seconds) == QUICK.rounds and there.place == "device"
    assert sent == [slow.digest, fast.digest]
    assert len(log.read_text().splitlines()) == 1  # one connection for everything


def test_old_artifacts_are_dropped_on_the_device(good: Path, tmp_path: Path) -> None:
    artifacts = []
    for index in range(4):
        shutil.copytree(good, tmp_path / str(index))
        manifest = tmp_path / str(index) / "manifest.json"
        manifest.write_text(manifest.read_text() + " " * index)  # the same layer under another digest
        artifacts.append(misdeeds.candidate(manifest.parent))
    channel = remote.Channel([sys.executable, "-c", remote.START], "here", 30.0, keep=1)
    try:
        for artifact in artifacts:
            assert channel.measure(artifact, artifacts[0], QUICK)["lanes"][1]["ok"]
        folder = Path(f"/proc/{channel._process.pid}/cwd")  # the program is running ...
        assert folder.exists()
        assert channel._there == [artifacts[0].digest, artifacts[2].digest, artifacts[3].digest]
        # ... and takes an artifact again that it was told to forget
        assert channel.measure(artifacts[1], artifacts[0], QUICK)["lanes"][1]["ok"]
    finally:
        channel.close()


@pytest.mark.parametrize("name", ["segfault", "hang", "wrong element", "huge arena"])
def test_what_a_candidate_does_is_its_own_failure(good: Path, tmp_path: Path, name: str) -> None:
    snippets, kind = misdeeds.MISDEEDS[name]
    bad = misdeeds.candidate(misdeeds.spoil(good, tmp_path / "bad", **snippets))
    right = misdeeds.candidate(good)
    with fake() as runner:
        failed = runner.measure(bad, right, Settings(rounds=2, timeout_s=2.0, memory_bytes=1 << 30))
        assert failed.failure is not None and failed.failure.kind == kind
        assert runner.measure(right, right, QUICK).ok  # the device is well


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("unknown-key", "host key", "connect once by hand"),
        ("locked", "login", "ssh-copy-id"),
        ("nowhere", "unreachable", "Connection refused"),
        ("talkative", "python", "Welcome to talkative"),
    ],
)
def test_errors_of_ssh_say_what_to_do(host: str, kind: str, words: str) -> None:
    with fake(host) as runner, pytest.raises(DeviceAccessError, match=words) as caught:
        runner.machine()
    assert caught.value.kind == kind and host in str(caught.value)


def test_a_missing_python_is_named() -> None:
    with (
        fake(python="/no/such/python3") as runner,
        pytest.raises(DeviceAccessError, match="/no/such/python3") as caught,
    ):
        runner.machine()
    assert caught.value.kind == "python"


def test_a_program_that_is_no_python_is_named() -> None:
    with fake(python="false") as runner, pytest.raises(DeviceAccessError, match="status 1") as caught:
        runner.machine()
    assert caught.value.kind == "python"


def test_a_python_without_numpy_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -I -S "$@"\n')
    bare.chmod(0o755)
    with fake(python=str(bare)) as runner, pytest.raises(DeviceAccessError, match="has no NumPy") as caught:
        runner.machine()
    assert caught.value.kind == "numpy"


def test_a_missing_client_is_named() -> None:
    with SshRunner("ssh://device", ssh="/no/such/ssh") as runner, pytest.raises(TuningError, match="/no/such/ssh"):
        runner.machine()


def test_another_architecture_ends_the_search_with_words(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(good, other)
    text = (other / "manifest.json").read_text()
    here = "x86_64" if '"x86_64"' in text else "aarch64"
    there = {"x86_64": "aarch64", "aarch64": "x86_64"}[here]
    (other / "manifest.json").write_text(text.replace(f'"{here}"', f'"{there}"'))
    wrong = misdeeds.candidate(other)
    with fake() as runner, pytest.raises(DeviceAccessError, match=f"is {here}.* the target is for {there}") as caught:
        runner.measure(wrong, wrong, QUICK)
    assert caught.value.kind == "architecture"


def test_a_lost_connection_is_made_again(pair: tuple[Candidate, Candidate]) -> None:
    slow, fast = pair
    with fake() as runner:
        runner.machine()
        assert runner._channel is not None
        os.kill(runner._channel._process.pid, signal.SIGKILL)
        assert runner.measure(fast, slow, QUICK).ok
        future = runner.submit(fast, slow, Settings(rounds=200, round_seconds=0.05))
        time.sleep(2.0)
        os.kill(runner._channel._process.pid, signal.SIGKILL)  # in the middle of it
        time.sleep(3.0)
        assert runner._channel is not None
        os.kill(runner._channel._process.pid, signal.SIGKILL)
        lost = future.result()
        assert lost.failure is not None and lost.failure.kind == "lost"
        assert runner.measure(fast, slow, QUICK).ok


def test_a_device_that_stays_away_ends_the_search(pair: tuple[Candidate, Candidate], tmp_path: Path) -> None:
    slow, fast = pair
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    gone = tmp_path / "fake_ssh"
    gone.write_text(Path(FAKE).read_text())
    gone.chmod(0o755)
    with SshRunner(SshPlace("device", python=sys.executable), ssh=str(gone), patience_s=2.0) as runner:
        runner.machine()
        assert runner._channel is not None
        gone.write_text("#!/bin/sh\necho 'ssh: connect to host device port 22: No route to host' >&2\nexit 255\n")
        os.kill(runner._channel._process.pid, signal.SIGKILL)
        with pytest.raises(DeviceAccessError, match="No route to host"):
            runner.measure(fast, slow, QUICK)


def test_closing_ends_what_runs(pair: tuple[Candidate, Candidate]) -> None:
    slow, fast = pair
    runner = fake()
    runner.machine()
    running = runner.submit(fast, slow, Settings(rounds=1000, round_seconds=0.1))
    queued = runner.submit(fast, slow, QUICK)
    time.sleep(1.0)
    assert runner._channel is not None
    process = runner._channel._process.pid
    start = time.monotonic()
    runner.close()
    runner.close()
    assert time.monotonic() - start < 10 and queued.cancelled()
    assert running.result().failure is not None
    assert not Path(f"/proc/{process}/exe").exists()


# ---- a real server -------------------------------------------------------------------------------------------------


def _sshd() -> str:
    """The server's program; the tests of it are skipped where one is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("sshd", path=path)
    if not found or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        pytest.skip("needs sshd, ssh and ssh-keygen (the packages openssh-server and openssh-client)")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ssh_config through which ``device`` is a server of our own on this machine, and ``stranger`` one whose key
    nobody knows; ``keyless`` has no key to log in with."""
    program, folder = _sshd(), tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    common = (
        f"HostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\nIdentitiesOnly yes\nGlobalKnownHostsFile none\n"
    )
    known = f"UserKnownHostsFile {folder}/known\n"
    (folder / "ssh_config").write_text(
        f"Host device\n{common}{known}IdentityFile {folder}/user\n"
        f"Host stranger\n{common}UserKnownHostsFile none\nIdentityFile {folder}/user\n"
        f"Host keyless\n{common}{known}IdentityFile {folder}/other\n"
    )
    with running(program, folder, port):
        yield folder / "ssh_config"


@contextmanager
def running(program: str, folder: Path, port: int) -> Iterator[None]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    pytest.skip(f"sshd does not start here: {(folder / 'log').read_text().strip()[-300:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A Python whose processes can be told from all others by the last word of their command line: its folder."""
    script = tmp_path / "python3"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" {tmp_path}\n')
    script.chmod(0o755)
    return script


def test_measures_through_a_real_server(server: Path, marked: Path, pair: tuple[Candidate, Candidate]) -> None:
    slow, fast = pair
    with SshRunner(f"ssh://device{marked}?config={server}") as runner:
        runner.machine()
        result = runner.measure(fast, slow, QUICK)
        assert result.ok, result.failure
        assert result.comparison.ratio < 0.9
        assert _processes(marked)
    deadline = time.monotonic() + 10
    while _processes(marked):
        assert time.monotonic() < deadline, "the device program outlives its connection"
        time.sleep(0.1)


def test_a_killed_client_leaves_nothing_on_the_device(
    server: Path, marked: Path, pair: tuple[Candidate, Candidate]
) -> None:
    slow, fast = pair
    with SshRunner(f"ssh://device{marked}?config={server}", patience_s=0.0) as runner:
        runner.machine()
        future = runner.submit(fast, slow, Settings(rounds=100, round_seconds=0.05, timeout_s=60))
        time.sleep(2.0)
        assert len(_processes(marked)) == 3 and runner._channel is not None  # the program and the two artifacts
        runner._closing.set()
        os.kill(runner._channel._process.pid, signal.SIGKILL)
        assert future.result().failure is not None
        deadline = time.monotonic() + 10
        while _processes(marked):
            assert time.monotonic() < deadline, "a measurement goes on that nobody waits for"
            time.sleep(0.1)


@pytest.mark.parametrize(("host", "kind"), [("stranger", "host key"), ("keyless", "login")])
def test_a_real_server_refuses(server: Path, host: str, kind: str) -> None:
    with SshRunner(f"ssh://{host}?config={server}") as runner, pytest.raises(DeviceAccessError) as caught:
        runner.machine()
    assert caught.value.kind == kind


def test_no_server_is_unreachable() -> None:
    if not shutil.which("ssh"):
        pytest.skip("needs ssh (the package openssh-client)")
    with SshRunner("ssh://127.0.0.1:1") as runner, pytest.raises(DeviceAccessError) as caught:
        runner.machine()
    assert caught.value.kind == "unreachable"


def _processes(marked: Path) -> list[int]:
    """The processes of this Python."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if os.fsencode(marked.parent) in words:
                found.append(int(entry.name))
    return found
