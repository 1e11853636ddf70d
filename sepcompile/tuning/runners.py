"""Runners by their address."""

from __future__ import annotations

from sepcompile.errors import TuningError
from sepcompile.tuning.runner import Runner


def open_runner(address: str) -> Runner | None:
    """``local`` (None: the tuner makes its own), ``ssh://...`` or ``dask://...``; see ``ssh`` and ``fleet``.

    Raises ``TuningError`` for any other address, and where the place cannot be reached.
    """
    scheme = address.partition("://")[0]
    if address == "local":
        return None
    if scheme == "ssh":
        from sepcompile.tuning.ssh import SshRunner

        return SshRunner(address)
    if scheme == "dask":
        from sepcompile.tuning.fleet import FleetRunner

        return FleetRunner(address)
    raise TuningError(f"runner {address!r}: expected local, ssh://[user@]host or dask://scheduler:port?label=NAME")
