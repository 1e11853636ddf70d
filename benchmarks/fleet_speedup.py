"""How much faster two workers of a fleet measure a batch of layers than one.

    python benchmarks/fleet_speedup.py

A scheduler and the workers run on this machine. So that measuring is what takes the time and the workers do not share
anything, the layers' calls sleep: that is simulated, all else is as with real boards.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sepcompile.tuning.fleet import FleetRunner
from sepcompile.tuning.runner import Candidate, Settings
from tests.tuning import misdeeds
from tests.tuning.cluster import LABEL, cluster

LAYERS, SLEEP_US = 4, 20_000
SETTINGS = Settings(rounds=10, round_seconds=0.2, stop_ratio=0.0)


def sleepers(folder: Path) -> list[Candidate]:
    """An artifact of each layer."""
    names = [f"layer{index}" for index in range(LAYERS)]
    good = [misdeeds.compile_good(folder / name, name=name) for name in names]
    return [misdeeds.candidate(misdeeds.sleepy(path, path.with_name(f"{path.name}-z"), SLEEP_US)) for path in good]


def seconds(url: str, batch: list[Candidate]) -> float:
    """Wall time of measuring the batch."""
    with FleetRunner(url) as runner:
        runner.machine()
        start = time.monotonic()
        futures = [runner.submit(artifact, artifact, SETTINGS) for artifact in batch]
        failures = [outcome.failure for outcome in (future.result() for future in futures) if not outcome.ok]
        if failures:
            sys.exit(f"a measurement failed: {failures[0]}")
        return time.monotonic() - start


def main() -> None:
    """Print both times."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        batch = sleepers(folder)
        with cluster(folder, "one") as fleet:
            alone = seconds(fleet.url, batch)
            fleet.add_worker("two")
            both = seconds(fleet.url, batch)
    print(f"{LAYERS} layers, label {LABEL}: one worker {alone:.1f} s, two workers {both:.1f} s: {alone / both:.2f}x")


if __name__ == "__main__":
    main()
