"""Packs the benchmark for a device without a compiler: compiled layers, the loader, and the runner `pi_bench.py`.

    python benchmarks/pi_pack.py build/pi.tar.gz                          # Raspberry Pi 4 and 5, and any 64-bit Arm
    scp build/pi.tar.gz pi:  &&  ssh pi 'tar xf pi.tar.gz && python3 pi/pi_bench.py'

The device needs Python 3.11 and NumPy; with ai-edge-litert installed there, LiteRT's XNNPACK runs beside ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from sepcompile.bench import BenchError, cases, suites
from sepcompile.errors import SepcompileError
from sepcompile.targets import get_target

ROOT = Path(__file__).resolve().parents[1]
TARGETS = "cortex-a72,cortex-a76,aarch64"
# What loading and timing need of the package; none of it imports more than NumPy.
PARTS = ("__init__.py", "api.py", "errors.py", "targets.py", "runtime", "bench")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "emulate", "*.c")
SEED = 0


def pack(folder: Path, targets: list[str], suite: str, only: list[str]) -> int:
    """Fill ``folder``; returns the number of layers. Raises BenchError and TargetError for unknown names."""
    for target in targets:
        get_target(target)
    layers = suites.select(suites.load(suite), only)
    for part in PARTS:
        source, copy = ROOT / "sepcompile" / part, folder / "sepcompile" / part
        if source.is_dir():
            shutil.copytree(source, copy, ignore=LEFT_OUT)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    shutil.copytree(ROOT / "targets", folder / "sepcompile" / "_data" / "targets")
    shutil.copy(ROOT / "benchmarks" / "pi_bench.py", folder)
    for number, layer in enumerate(layers, 1):
        print(f"{number}/{len(layers)} {layer.name}", file=sys.stderr)
        if reason := cases.compile_ours(layer, folder / "layers" / layer.name, targets, SEED):
            raise BenchError(f"{layer.name}: {reason}")
    document = {"suite": suite, "seed": SEED, "targets": targets, "layers": [layer.to_json() for layer in layers]}
    (folder / "pack.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return len(layers)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="a .tar.gz to write; its one folder is called pi")
    parser.add_argument("--target", default=TARGETS, help=f"targets of each layer, by comma (default: {TARGETS})")
    parser.add_argument("--suite", default="dev", help="dev, held-out, or a JSON file of layers")
    parser.add_argument("--layer", action="append", default=[], help="only this layer of the suite; repeatable")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sepcompile-pi-") as name:
        folder = Path(name) / "pi"
        folder.mkdir()
        try:
            count = pack(folder, arguments.target.split(","), arguments.suite, arguments.layer)
        except (BenchError, SepcompileError) as error:
            sys.exit(f"error: {error}")
        arguments.archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(arguments.archive, "w:gz") as archive:
            archive.add(folder, "pi")
    print(f"{count} layers, {arguments.archive.stat().st_size / 2**20:.1f} MB: {arguments.archive}")


if __name__ == "__main__":
    main()
