"""Writes the LiteRT models of cases, in a process of its own: it takes LiteRT's schema out of another machine's wheel.

    python -m sepcompile.bench.emulate.write_models PEERS CASE...

PEERS is the folder that holds the wheel's content. Its libraries are for another machine, so the package's own
``__init__`` must not run; the schema beside it is plain Python.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np

from sepcompile.bench.layers import geometry, load_case, own_layout
from sepcompile.bench.peers.tflite_model import build_model

PACKAGE = "ai_edge_litert"


def main(peers: str, *folders: str) -> None:
    """A 1-D layer's model comes as one row and as one column, which are the same memory but different kernels."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(Path(peers) / PACKAGE)]
    sys.modules[PACKAGE] = package
    sys.path.append(peers)  # after this machine's own packages, NumPy above all
    for folder in map(Path, folders):
        layer, data, _ = load_case(folder)
        geo = geometry(layer)
        np.save(folder / "x.npy", own_layout(geo, data.x))
        for tall in (False, True) if geo.one_d else (False,):
            (folder / f"model{int(tall)}.tflite").write_bytes(build_model(geo, data, tall=tall))


if __name__ == "__main__":
    main(*sys.argv[1:])
