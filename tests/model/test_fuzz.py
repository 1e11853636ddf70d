"""Mutated real files: only typed errors, and nothing that takes longer than 5 seconds."""

from __future__ import annotations

import copy
import io
import json
import random
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

from sepcompile.errors import SepcompileError
from sepcompile.frontend.model import read_model, report

DATA = Path(__file__).parent / "data"
LIMIT_S = 5.0
EXTREMES = [0, 1, 2, 7, 8, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 2**31 - 1, 2**31, 2**62, -(2**62), 0.0, 0.5, 1e308, -1e-308, "", "x", "relu",
    "same", "channels_first", "/", "\0", "\ud800", "Functional", "Sequential", "DepthwiseConv2D", "float16",
    "__lambda__", [], {}, [[]], [None], [1, 2], [1, 2, 3, 4], {"class_name": "function", "config": "relu"},
    {"a": [{}]}, [0] * 9,
]  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A real file: its config, and the bytes of its HDF5 part (of the whole file for legacy .h5)."""

    kind: str
    config: Any
    hdf5: bytes


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    from tests.model.test_files import nested

    folder = tmp_path_factory.mktemp("seeds")
    model = nested()
    model.save(folder / "three.keras")
    model.save(folder / "three.h5")
    paths = [folder / "three.keras", folder / "three.h5", DATA / "keras2_mobile.keras", DATA / "keras2_mobile.h5"]
    return [_seed(path) for path in paths]


def _seed(path: Path) -> Seed:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return Seed(".keras", json.loads(archive.read("config.json")), archive.read("model.weights.h5"))
    with h5py.File(path) as file:
        return Seed(".h5", json.loads(file.attrs["model_config"]), path.read_bytes())


# ---- mutations -----------------------------------------------------------------------------------------------------


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bits, aligned fields, copies of other parts, cuts."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, kind = rng.randrange(len(result)), rng.randrange(6)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            at -= at % width
            result[at : at + width] = (rng.choice(EXTREMES) % 2 ** (8 * width)).to_bytes(width, "little")
        elif kind == 3:
            at -= at % 8
            result[at : at + 8] = (rng.randrange(len(result)) & ~7).to_bytes(8, "little")
        elif kind == 4:
            start, length = rng.randrange(len(result)), rng.randrange(1, 64)
            piece = result[start : start + length]
            result[at : at + len(piece)] = piece
        elif rng.randrange(8) == 0:
            del result[max(at, 16) :]
    return bytes(result)


def structural(data: bytes, rng: random.Random) -> bytes:
    """Changes where the file's structure is, which holds fewer bytes than the weights."""
    marks = [i for mark in (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"\x89HDF") for i in _positions(data, mark)]
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice(marks) + rng.randrange(0, 96)
        if at + 8 > len(result):
            continue
        if rng.randrange(2):
            result[at] = rng.randrange(256)
        else:
            at -= at % 8
            result[at : at + 8] = rng.choice((rng.choice(EXTREMES), rng.choice(marks))).to_bytes(8, "little")
    return bytes(result)


def _positions(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def mutated_config(config: Any, rng: random.Random) -> Any:
    """One to four values replaced, deleted, doubled, or moved somewhere else."""
    result = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(result))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 1:
            del holder[key]
        elif kind == 2:
            other, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[other_key]) if _has(other, other_key) else None
        elif kind == 3 and isinstance(holder, dict):
            name = rng.choice(("name", "x", "groups", "weights", "dtype", "activation"))
            holder[name] = copy.deepcopy(rng.choice(VALUES))
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
    return result


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def case(seed: Seed, rng: random.Random) -> tuple[str, bytes]:
    """A file's suffix and content: its config, its HDF5 part, or the archive around them changed."""
    kind = rng.randrange(10)
    config, hdf5 = seed.config, seed.hdf5
    if kind < 4:
        config = mutated_config(config, rng)
    elif kind < 7:
        hdf5 = structural(hdf5, rng)
    elif kind < 9:
        hdf5 = mutated_bytes(hdf5, rng)
    text = json.dumps(config).encode()
    if kind < 4 and seed.kind == ".h5":
        return ".json", text
    if seed.kind == ".h5":
        return ".h5", hdf5
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}' if b"keras.layers" in text else "{}")
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", hdf5)
    data = buffer.getvalue()
    return ".keras", mutated_bytes(data, rng) if kind == 9 else data


# ---- the test ------------------------------------------------------------------------------------------------------


def run(seeds: list[Seed], folder: Path, count: int, start: int) -> dict[str, int]:
    """Reads ``count`` mutated files and builds their blocks; returns how they ended."""
    ends: dict[str, int] = {}
    for number in range(start, start + count):
        rng = random.Random(number)
        suffix, data = case(rng.choice(seeds), rng)
        path = folder / f"case{suffix}"
        path.write_bytes(data)
        began = time.process_time()
        try:
            found = report(read_model(path))
            end = "compiles" if found.artifacts else "compiles nothing"
            assert all((row.artifact is None) != (row.reason is None) for row in found.layers)
        except SepcompileError as error:
            end = type(error).__name__
            assert str(error).isprintable(), (number, str(error))
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
        assert time.process_time() - began < LIMIT_S, number
        ends[end] = ends.get(end, 0) + 1
    return ends


def test_some_mutated_files(seeds: list[Seed], tmp_path: Path) -> None:
    ends = run(seeds, tmp_path, 600, 0)
    # Neither all refused at the door nor all let through: the mutations reach every part of the readers.
    assert {"compiles", "ConfigError", "WeightError"} <= set(ends), ends
    assert max(ends.values()) < 0.9 * sum(ends.values()), ends


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_mutated_files(part: int, seeds: list[Seed], tmp_path: Path) -> None:
    ends = run(seeds, tmp_path, 10_000, 1_000_000 + part * 10_000)
    print(ends)
    assert sum(ends.values()) == 10_000
