"""Times the layers that `pi_pack.py` packed on this device, beside LiteRT where it is installed. No compiler is needed.

    python3 pi_bench.py [--threads 1] [--threads 4] [--rounds 8] [--layer NAME] [--output results.json]

Needs Python 3.11 and NumPy (Raspberry Pi OS: `sudo apt install python3-numpy`). For LiteRT, run it with the Python of
a virtual environment: `python3 -m venv litert && litert/bin/pip install ai-edge-litert`, then `litert/bin/python`.
Let the device cool, fix its clock if it can be fixed, and keep it idle: the report says how warm it became.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the device's Python is whatever it is
    sys.exit(f"error: Python 3.11 or newer is needed; this is {sys.version.split()[0]}")

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

try:
    import numpy  # noqa: F401
except ImportError:
    sys.exit("error: NumPy is not installed; on Raspberry Pi OS: sudo apt install python3-numpy")

from sepcompile.bench import BenchError, BenchOptions, BenchReport, main, write_json  # noqa: E402
from sepcompile.bench.layers import BenchLayer  # noqa: E402
from sepcompile.bench.peers import OURS  # noqa: E402

PEER = "litert"
MARKS = {"unsupported": "-", "failed": "failed", "wrong": "WRONG"}


def place_artifact(source: dict[str, Any], *, output: str, **_: object) -> None:
    """Stands in for the compiler: the layer was compiled when it was packed."""
    shutil.copytree(HERE / "layers" / source["config"]["name"] / "artifact", output)


def conditions() -> dict[str, str]:
    """Clock, governor and temperature, as far as the system tells."""
    files = {
        "MHz": "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "governor": "devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "degrees": "class/thermal/thermal_zone0/temp",
    }
    found = {}
    for name, path in files.items():
        try:
            text = (Path("/sys") / path).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        found[name] = text if name == "governor" else f"{int(text) / 1000:.0f}"
    return found


def show(report: BenchReport) -> None:
    """A plain table: microseconds of the best call."""
    for threads in sorted({row.threads for row in report.rows}):
        print(f"\n{threads} thread(s): microseconds per call, minimum (median)")
        print(f"{'layer':<14}{'MMAC':>9}{'ours':>22}{PEER:>22}{'speedup':>9}")
        for row in report.rows:
            if row.threads != threads:
                continue
            cells = {result.peer: cell(result) for result in report.results_of(row.layer, threads)}
            speedup = "-" if row.speedup_min is None else f"{row.speedup_min:.2f}"
            own, other = cells.get(OURS, "-"), cells.get(PEER, "-")
            print(f"{row.layer:<14}{row.macs / 1e6:>9.2f}{own:>22}{other:>22}{speedup:>9}")
        for summary in report.summaries:
            if summary.threads == threads and summary.geomean_min:
                print(f"{summary.group}: {summary.geomean_min:.2f}x, ahead on {summary.ahead} of {summary.rows}")
    for peer in report.peers:
        print(f"{peer.name} {peer.version}: {peer.status} {peer.reason}")
    for warning in report.warnings:
        print(f"warning: {warning}")


def cell(result: Any) -> str:
    """One figure, or why there is none."""
    if result.status != "ok":
        return MARKS[result.status]
    return f"{result.min_us:,.1f} ({result.median_us:,.1f})"


def command() -> int:
    """The command line; the exit code is 1 where an output was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, action="append", help="thread count; repeatable (default: 1)")
    parser.add_argument("--rounds", type=int, default=8, help="interleaved rounds (default: 8)")
    parser.add_argument("--layer", action="append", default=[], help="only this layer; repeatable")
    parser.add_argument("--no-litert", action="store_true", help="time our layers alone")
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="where every figure goes")
    arguments = parser.parse_args()
    packed = json.loads((HERE / "pack.json").read_text(encoding="utf-8"))
    before = conditions()
    try:
        report = main.run(BenchOptions(
            layers=tuple(BenchLayer.from_json(row) for row in packed["layers"]), only=tuple(arguments.layer),
            peers=(OURS,) if arguments.no_litert else (PEER,), threads=tuple(arguments.threads or [1]),
            rounds=arguments.rounds, seed=packed["seed"], target=",".join(packed["targets"]), ceilings=False,
            compile=place_artifact, progress=lambda message: print(message, file=sys.stderr),
        ))  # fmt: skip
        write_json(report, arguments.output)
    except (BenchError, OSError) as error:
        sys.exit(f"error: {error}")
    show(report)
    print(f"before: {before}\nafter:  {conditions()}\nevery figure: {arguments.output}")
    return 1 if report.wrong() else 0


if __name__ == "__main__":
    sys.exit(command())
