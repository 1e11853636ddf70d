"""Measuring on a device over ssh, with the system's own client.

One connection serves the whole search: ``ssh host python3 -c ...`` gets the device program through its standard input,
then the artifacts, then the requests. Nothing is installed on the device, which needs Python and NumPy; what is written
there lies in a temporary folder that goes when the connection ends. Hosts, keys, jumps and all else are as
``ssh_config`` says. ssh never asks (``BatchMode``): keys or an agent must let it in, and the host's key must be known.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from sepcompile.errors import TuningError
from sepcompile.tuning.remote import START, Channel, ChannelLostError, DeviceAccessError, check_architecture
from sepcompile.tuning.runner import Candidate, MachineIdentity, Measurement, Runner, Settings, read_answer

EXAMPLE = "ssh://pi@raspberrypi.local:22/usr/bin/python3"
_LOGIN_FAILED = 255  # ssh's own exit status; any other is the remote command's
_ATTEMPTS = 2
_NAME = re.compile(r"(?!-)[A-Za-z0-9._-]{1,100}", re.ASCII)
_HOST = re.compile(r"(?!-)[A-Za-z0-9._:%-]{1,255}", re.ASCII)


@dataclass(frozen=True)
class SshPlace:
    """Where to: ``ssh://[user@]host[:port][/path/of/python][?config=FILE&identity=FILE]``."""

    host: str
    user: str = ""
    port: int | None = None
    python: str = "python3"
    config: str = ""
    identity: str = ""

    @staticmethod
    def parse(url: str) -> SshPlace:
        """Raises ``TuningError`` for anything else."""
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname or ""
            query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise TuningError(f"runner {url!r}: {error}; expected such as {EXAMPLE}") from error
        user = unquote(parts.username or "")
        if parts.scheme != "ssh" or not _HOST.fullmatch(host) or (user and not _NAME.fullmatch(user)) or parts.password:
            raise TuningError(f"runner {url!r}: expected such as {EXAMPLE}, without a password")
        if unknown := sorted(set(query) - {"config", "identity"}):
            raise TuningError(f"runner {url!r}: unknown option {unknown[0]!r}; known are config and identity")
        options = {key: values[-1] for key, values in query.items()}
        return SshPlace(host, user, port, unquote(parts.path).rstrip("/") or "python3", **options)

    def __str__(self) -> str:
        return f"{self.user + '@' * bool(self.user)}{self.host}{f':{self.port}' if self.port else ''}"

    def command(self, ssh: str, connect_s: float) -> list[str]:
        """The command line that starts the device program there."""
        options = {
            "BatchMode": "yes", "ConnectTimeout": f"{max(1, round(connect_s))}", "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3", "ClearAllForwardings": "yes", "ForwardAgent": "no", "RequestTTY": "no",
        }  # fmt: skip
        settings = [item for key, value in options.items() for item in ("-o", f"{key}={value}")]
        places = [("-F", self.config), ("-i", self.identity), ("-l", self.user), ("-p", str(self.port or ""))]
        chosen = [item for flag, value in places if value for item in (flag, value)]
        # The login shell there reads one line.
        remote = f"exec {shlex.quote(self.python)} -c {shlex.quote(START)}"
        return [ssh, *settings, *chosen, "--", self.host, remote]


class SshRunner(Runner):
    """Measures on one device. ``ssh`` is the client's program; ``patience_s``: how long a lost device is waited for."""

    def __init__(
        self, place: SshPlace | str, *, ssh: str = "ssh", connect_s: float = 15.0, patience_s: float = 60.0
    ) -> None:
        self._place = SshPlace.parse(place) if isinstance(place, str) else place
        self._ssh, self._connect_s, self._patience_s = ssh, connect_s, patience_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sepcompile-ssh")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._channel: Channel | None = None
        self._machine: MachineIdentity | None = None

    @property
    def capacity(self) -> int:
        return 1

    def machine(self) -> MachineIdentity:
        if self._machine is None:
            self._machine = self._executor.submit(self._connected).result().machine
        return self._machine

    def submit(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Future[Measurement]:
        return self._executor.submit(self._measure, candidate, incumbent, settings)

    def close(self) -> None:
        self._closing.set()
        self._drop_channel()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._drop_channel()

    def _measure(self, candidate: Candidate, incumbent: Candidate, settings: Settings) -> Measurement:
        """In the runner's one thread. A lost connection is made again, and the candidate gets a second chance."""
        start, reason = time.monotonic(), ""
        for _ in range(_ATTEMPTS):
            channel = self._connected(patience_s=self._patience_s if reason else 0.0)
            check_architecture(candidate, channel.machine, str(self._place))
            try:
                answer = channel.measure(candidate, incumbent, settings)
                return read_answer(answer, time.monotonic() - start, str(self._place))
            except ChannelLostError as error:
                self._drop_channel()
                reason = str(error)
            if self._closing.is_set():
                reason = "the search ended"
                break
        return Measurement.failed("lost", reason, time.monotonic() - start, str(self._place))

    def _connected(self, patience_s: float = 0.0) -> Channel:
        """The connection, made where there is none; a device that starts again is waited for."""
        end, wait = time.monotonic() + patience_s, 0.5
        while True:
            if self._closing.is_set():
                raise TuningError(f"{self._place}: the runner was closed")
            if self._channel is not None:
                return self._channel
            try:
                channel = self._connect()
            except DeviceAccessError as error:
                if error.kind != "unreachable" or time.monotonic() + wait > end:
                    raise
                self._closing.wait(wait)
                wait = min(2 * wait, 8.0)
                continue
            if self._machine is not None and channel.machine != self._machine:
                channel.close()
                text = f"{self._place} was {self._machine} and is now {channel.machine}"
                raise DeviceAccessError("machine", text)
            with self._lock:
                self._channel = channel

    def _connect(self) -> Channel:
        command = self._place.command(self._ssh, self._connect_s)
        try:
            return Channel(command, str(self._place), timeout_s=self._connect_s + 30.0)
        except ChannelLostError as error:
            raise explain(str(error), error.status, self._place) from error
        except OSError as error:
            text = f"the ssh client {self._ssh!r} cannot be run: {error.strerror or error}"
            raise TuningError(text) from error

    def _drop_channel(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def explain(message: str, status: int | None, place: SshPlace) -> DeviceAccessError:
    """What ``ssh`` or the remote shell said, as an error that says what to do."""
    text = message.removeprefix("the connection ended: ")
    name = str(place)
    if "host key" in text.lower() or "host identification" in text.lower():
        hint = f"connect once by hand (ssh {name}) and compare its fingerprint"
        return DeviceAccessError("host key", f"{name}: its host key is not known, or has changed; {hint} [{text}]")
    if "permission denied" in text.lower() or "authentication" in text.lower():
        hint = "set up a key or an agent (ssh-copy-id); ssh is never asked for a password here"
        return DeviceAccessError("login", f"{name}: login refused; {hint} [{text}]")
    if status == _LOGIN_FAILED or status is None:
        return DeviceAccessError("unreachable", f"{name} cannot be reached [{text}]")
    if status in (126, 127):
        hint = f"name one by its path, such as {EXAMPLE}"
        return DeviceAccessError("python", f"{name}: {place.python} is not a program there; {hint} [{text}]")
    return DeviceAccessError(
        "python", f"{name}: {place.python} ended with status {status} [{text}]; 3.9 or newer is needed"
    )
