"""Our own layer under emulation: the artifact's C entry point, called by a small program on one thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepcompile.bench.emulate import tools
from sepcompile.bench.emulate.cores import HERE, Core
from sepcompile.bench.emulate.counts import Block, mapped_ranges, read_counts, within
from sepcompile.bench.emulate.sysroot import Sysroot
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import Array, geometry, load_case, own_layout, to_nhwc
from sepcompile.bench.peers.ours import ARTIFACT
from sepcompile.runtime.loader import read_manifest
from sepcompile.runtime.manifest import VariantEntry
from sepcompile.runtime.tensors import read_tensors

ALIGNMENT = 64


@dataclass(frozen=True)
class Harness:
    """What runs every layer of a benchmark: the core, the built programs, the sysroot (none for this architecture)."""

    core: Core
    plugin: Path
    program: Path
    sysroot: Sysroot | None

    def run(self, folder: Path) -> tuple[list[Block], Array]:
        """The counted blocks of the artifact in a case's folder, and its output as NHWC. Raises BenchError."""
        layer, data, _ = load_case(folder)
        geo = geometry(layer)
        artifact = folder / ARTIFACT
        manifest = read_manifest(artifact)
        variant = next(v for v in manifest.variants if v.target == self.core.target.name)
        x, y, maps = folder / "x.bin", folder / "y.bin", folder / "ours.maps"
        own_layout(geo, data.x).tofile(x)
        offsets = _write_weights(artifact, variant, folder / "weights.bin")
        library = (artifact / variant.library).resolve()
        y_bytes = variant.plan.y_bytes * geo.batch
        command = [self.program, library, variant.symbol, folder / "weights.bin", x, y, y_bytes, geo.batch, maps]
        environment = {} if self.core.debian == HERE else {"QEMU_LD_PREFIX": str(self.sysroot and self.sysroot.root)}
        words = [str(word) for word in (*command, *offsets)]
        _, failure = tools.run_counted(self.core, self.plugin, folder / "ours", words, environment)
        if failure:
            raise BenchError(failure)
        ranges = mapped_ranges(maps.read_text(), [str(library)])
        result = np.fromfile(y, np.float32).reshape(own_layout(geo, np.empty(geo.nhwc_out, np.float32)).shape)
        return within(read_counts(folder / "ours.0"), ranges), to_nhwc(geo, result)


def _write_weights(artifact: Path, variant: VariantEntry, path: Path) -> list[int]:
    """The variant's weights one after the other as the loader lays them out; returns their offsets."""
    tensors = read_tensors((artifact / "weights.safetensors").read_bytes(), str(artifact))
    offsets, content = [], bytearray()
    for weight in sorted(variant.weights, key=lambda entry: entry.name):
        offsets.append(len(content))
        content += np.ascontiguousarray(tensors[weight.key]).tobytes()
        content += bytes(-len(content) % ALIGNMENT)
    path.write_bytes(bytes(content))
    return offsets
