"""What a C program reads of an artifact with static libraries: header, example, CMake file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from sepcompile.codegen.data import render
from sepcompile.codegen.entry import symbol_name
from sepcompile.codegen.manifest import VariantRecord
from sepcompile.ir.stages import TensorSpec

# What CMake calls the processors that a variant is for; a microcontroller's name is its toolchain file's to choose.
_PROCESSORS = {
    "x86_64": "^(x86_64|AMD64|amd64)$", "aarch64": "^(aarch64|arm64|ARM64)$", "armv7": "^armv7", "riscv64": "^riscv64$",
}  # fmt: skip


def c_api_texts(
    values: Mapping[str, object], records: Sequence[VariantRecord], input: TensorSpec, output: TensorSpec
) -> dict[str, str]:
    """The files by their paths. ``values`` are those of every text of the artifact."""
    static = [(record, record.static) for record in records if record.static is not None]
    batch = input.shape[0]
    more = {
        "variants": [
            {
                "macro": symbol_name(record.target).upper(),
                "folder": str(Path(record.archive).parent),
                "library": record.archive,
                "processor": _PROCESSORS.get(record.arch, f"^{record.target}$"),
                "arena_bytes": library.arena,
            }
            for record, library in static
        ],
        "example_library": min(reversed(static), key=lambda item: item[0].arch not in _PROCESSORS)[0].archive,
        "x_bytes": _image_bytes(input),
        "y_bytes": _image_bytes(output),
        "batch": batch,
        "dynamic": batch is None,
        "arena_bytes": max(1, *(library.arena for _, library in static)),
        "arena_align": max(library.alignment for _, library in static),
        "residual_argument": f"const {values['y_type']} *residual, " if values["residual"] else "",
    }
    symbol = values["symbol"]
    filled = {**values, **more}
    return {
        f"include/{symbol}.h": render("c_api/header.h.j2", **filled),
        "src/example.c": render("c_api/example.c.j2", **filled),
        "CMakeLists.txt": render("c_api/cmake.j2", **filled),
    }


def _image_bytes(spec: TensorSpec) -> int:
    return prod(size or 0 for size in spec.shape[1:]) * np.dtype(spec.dtype).itemsize
