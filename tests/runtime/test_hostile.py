"""Damaged and hostile artifacts: refused with ``ArtifactError``, and before their native code runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.codegen.tensors import write_tensors
from sepcompile.runtime import cpu, cpu_arm, cpu_x86
from sepcompile.runtime.errors import ArtifactError, SepcompileError
from sepcompile.runtime.files import FileEntry, read_file
from sepcompile.runtime.loader import load, read_manifest, verify
from sepcompile.runtime.tensors import read_tensors

# A constructor runs as soon as the library is mapped: this one makes a folder, by the system call mkdir.
CONSTRUCTOR = """
__attribute__((constructor)) static void mark(void) {
    long result = 83;
    __asm__ volatile("syscall" : "+a"(result) : "D"("marker"), "S"(0777L) : "rcx", "r11", "memory");
}
"""
LIBRARY = "here/libconv1.so"


@pytest.fixture
def marked(tmp_path, monkeypatch, samples, variant, write_sample):
    """An artifact, and the path (in the current folder) that exists once its library has been mapped."""
    if cpu.machine() != "x86_64":
        pytest.skip("the constructor is written for x86-64")
    monkeypatch.chdir(tmp_path)
    sample = samples(extra=CONSTRUCTOR)
    return write_sample(tmp_path / "conv1", sample, variants=[variant(sample)]), tmp_path / "marker"


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace(root: Path, name: str, data: bytes) -> None:
    """Replaces a file and makes the manifest agree."""
    (root / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(root, lambda m: m["files"].update({name: entry}))


def refused(root: Path, marker: Path, words: str) -> None:
    for function in (load, verify):
        with pytest.raises(ArtifactError, match=words):
            function(root)
    assert not marker.exists(), "native code was mapped"


def test_the_marker_works(marked):
    root, marker = marked
    load(root)
    assert marker.exists()


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = to

    return change


def _drop(*keys: Any) -> Callable[[dict[str, Any]], object]:
    def change(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


V = ("variants", 0)
EDITS = {
    "version 2": (_set("format_version", to=2), "version"),
    "version true": (_set("format_version", to=True), "version"),
    "version 1.0": (_set("format_version", to=1.0), "version"),
    "another format": (_set("format", to="onnx"), "not the manifest"),
    "unknown key": (_set("extra", to=1), "unknown key 'extra'"),
    "unknown key in a variant": (_set(*V, "extra", to=1), "unknown key 'extra'"),
    "missing key": (_drop("ir"), "'ir' is missing"),
    "no variants": (_set("variants", to=[]), "variants is empty"),
    "variants not a list": (_set("variants", to={}), "variants"),
    "empty name": (_set("name", to=""), "name"),
    "input not a shape": (_set("input", "shape", to=[None, "12", 8]), "shape"),
    "negative size": (_set("input", "shape", to=[None, -12, 8]), "shape"),
    "zero size": (_set("input", "shape", to=[None, 0, 8]), "shape"),
    "huge size": (_set("input", "shape", to=[None, 2**31 - 1, 2**31 - 1]), "elements"),
    "another input size": (_set("input", "shape", to=[None, 13, 8]), "x_bytes"),
    "another output size": (_set("output", "shape", to=[None, 13, 8]), "y_bytes"),
    "another batch": (_set("output", "shape", 0, to=3), "batch"),
    "another dtype": (_set("input", "dtype", to="float16"), "x_bytes"),
    "unknown dtype": (_set("input", "dtype", to="float8"), "dtype"),
    "object dtype": (_set("input", "dtype", to="O"), "dtype"),
    "another ABI": (_set(*V, "entry", "abi", to=2), "ABI"),
    "symbol with a space": (_set(*V, "entry", "symbol", to="a b"), "symbol"),
    "unknown arch": (_set(*V, "arch", to="vax"), "arch"),
    "wrong arch": (_set(*V, "arch", to="aarch64"), "library for x86_64"),
    "missing CPU feature": (_set(*V, "requires", to=["avx9000"]), "avx9000"),
    "requires not strings": (_set(*V, "requires", to=[1]), "requires"),
    "library outside": (_set(*V, "library", to="../lib.so"), "library"),
    "library absolute": (_set(*V, "library", to="/lib/libc.so.6"), "library"),
    "library not listed": (_set(*V, "library", to="here/other.so"), "lacks here/other.so"),
    "file outside": (_set("files", "../x", to={"bytes": 0, "sha256": "0" * 64}), "plain relative path"),
    "file absolute": (_set("files", "/etc/passwd", to={"bytes": 0, "sha256": "0" * 64}), "plain relative path"),
    "file through ..": (_set("files", "here/../../x", to={"bytes": 0, "sha256": "0" * 64}), "plain relative path"),
    "file .": (_set("files", "./x", to={"bytes": 0, "sha256": "0" * 64}), "plain relative path"),
    "file missing": (_set("files", "gone", to={"bytes": 0, "sha256": "0" * 64}), "cannot be opened"),
    "wrong digest": (_set("files", LIBRARY, "sha256", to="0" * 64), "SHA-256"),
    "digest in capitals": (_set("files", LIBRARY, "sha256", to="A" * 64), "sha256"),
    "wrong size": (_set("files", LIBRARY, "bytes", to=5), "bytes"),
    "negative bytes": (_set("files", LIBRARY, "bytes", to=-5), "bytes"),
    "huge bytes": (_set("files", LIBRARY, "bytes", to=10**19), "bytes"),
    "no weights file": (_drop("files", "weights.safetensors"), "lacks weights"),
    "weight of another shape": (_set(*V, "weights", "scale", "shape", to=[4]), "the manifest says"),
    "weight of another dtype": (_set(*V, "weights", "scale", "dtype", to="F16"), "the manifest says"),
    "weight missing": (_set(*V, "weights", "scale", "key", to="gone"), "is missing"),
    "unknown operand": (_set(*V, "plan", "steps", 0, "operands", to=["x", "w:gone", "y"]), "unknown operand"),
    "no steps": (_set(*V, "plan", "steps", to=[]), "no steps"),
    "zero tasks": (_set(*V, "plan", "steps", 0, "tasks", to=0), "tasks"),
    "drawn not a flag": (_set("weights_drawn", to=1), "weights_drawn"),
    "tools not strings": (_set("tools", to={"zig": 1}), "tools"),
}


@pytest.mark.parametrize("case", EDITS)
def test_manifest_refused(marked, case):
    change, words = EDITS[case]
    root, marker = marked
    edit(root, change)
    if case == "missing CPU feature":
        assert verify(root).variants[0].missing == ("avx9000",)
        assert not verify(root).passed
        with pytest.raises(ArtifactError, match="avx9000"):
            load(root)
        assert not marker.exists()
        return
    refused(root, marker, words)


def test_two_variants_of_one_target_refused(marked):
    root, marker = marked
    edit(root, lambda m: m["variants"].append(m["variants"][0]))
    refused(root, marker, "twice")


TEXTS = {
    "empty": (b"", "JSON"),
    "not UTF-8": (b"\xff\xfe", "JSON"),
    "a list": (b"[]", "expected an object"),
    "truncated": (b'{"format": "sepcompile-art', "JSON"),
    "duplicate keys": (b'{"format": "sepcompile-artifact", "format": "x"}', "occurs twice"),
    "deep nesting": (b"[" * 200_000, "deep"),
    "deep objects": (b'{"a":' * 200_000, "deep"),
    "NaN": (b'{"format": NaN}', "NaN"),
    "huge number": (b'{"format_version": ' + b"9" * 1_000_000 + b"}", "digits"),
    "too big": (b" " * (17 << 20), "more than"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_manifest_text_refused(marked, case):
    root, marker = marked
    text, words = TEXTS[case]
    (root / "manifest.json").write_bytes(text)
    start = time.perf_counter()
    refused(root, marker, words)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", [LIBRARY, "weights.safetensors", "selftest.safetensors", "loader.py", "README.md"])
@pytest.mark.parametrize("how", ["truncated", "longer", "flipped", "missing", "link", "hidden link", "folder", "fifo"])
def test_files_refused(marked, name, how):
    root, marker = marked
    path = root / name
    data = path.read_bytes()
    path.unlink()
    if how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "longer":
        path.write_bytes(data + b"\0")
    elif how == "flipped":
        path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif how == "link":
        (root / "other").write_bytes(data)
        path.symlink_to(root / "other")
    elif how == "hidden link":
        path.symlink_to("/nowhere")
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    refused(root, marker, str(path))


def test_linked_folder_refused(marked):
    root, marker = marked
    (root / "here").rename(root / "elsewhere")
    (root / "here").symlink_to(root / "elsewhere")
    refused(root, marker, "not a plain folder")


def test_swapped_files_refused(marked):
    root, marker = marked
    weights, selftest = root / "weights.safetensors", root / "selftest.safetensors"
    one, two = weights.read_bytes(), selftest.read_bytes()
    weights.write_bytes(two)
    selftest.write_bytes(one)
    refused(root, marker, "bytes")


def test_a_linked_artifact_is_fine(artifact, tmp_path):
    (tmp_path / "link").symlink_to(artifact)
    assert verify(tmp_path / "link").passed


@pytest.mark.parametrize("path", ["gone", "a\0b", "x" * 300])
def test_no_artifact(tmp_path, path):
    with pytest.raises(ArtifactError):
        load(f"{tmp_path}/{path}")


LIBRARIES = {
    "no ELF": (b"#!/bin/sh\n" + b" " * 100, "not an ELF"),
    "short": (b"\x7fELF", "not an ELF"),
    "another architecture": (lambda data: data[:18] + struct.pack("<H", 183) + data[20:], "library for aarch64"),
    "unknown architecture": (lambda data: data[:18] + struct.pack("<H", 999) + data[20:], "machine 999"),
    "32 bit": (lambda data: data[:4] + b"\1" + data[5:], "manifest says"),
    "big endian": (lambda data: data[:5] + b"\2" + data[6:], "byte order"),
    "a program": (lambda data: data[:16] + b"\2\0" + data[18:], "shared library"),
}


@pytest.mark.parametrize("case", LIBRARIES)
def test_library_refused(marked, case):
    root, marker = marked
    change, words = LIBRARIES[case]
    replace(root, LIBRARY, change((root / LIBRARY).read_bytes()) if callable(change) else change)
    refused(root, marker, words)


def test_library_that_cannot_be_mapped(artifact, tmp_path):
    root = shutil.copytree(artifact, tmp_path / "conv1")
    replace(root, LIBRARY, (root / LIBRARY).read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"cannot be loaded"):
        load(root)
    report = verify(root)
    assert not report.passed and "cannot be loaded" in report.variants[0].problem


def test_library_without_functions(artifact, tmp_path):
    root = shutil.copytree(artifact, tmp_path / "conv1")
    edit(root, _set(*V, "entry", "symbol", to="other"))
    with pytest.raises(ArtifactError, match="other_abi is missing"):
        load(root)


def test_failed_selftest(artifact, tmp_path, samples):
    root = shutil.copytree(artifact, tmp_path / "conv1")
    tensors = selftest_tensors(samples())
    for value in (1.0, np.nan):
        tensors["expected"][23] += value
        replace(root, "selftest.safetensors", write_tensors(tensors).data)
        with pytest.raises(ArtifactError, match="FAILED"):
            load(root, selftest=True)
        report = verify(root)
        assert not report.passed and report.variants[0].problem == "self-test failed" and report.variants[0].runs


def selftest_tensors(sample):
    x = sample.input(1)
    expected = sample.expected(x).reshape(-1).astype(float)
    return {
        "pattern": x.reshape(-1),
        "positions": np.arange(expected.size),
        "expected": expected,
        "tolerance": np.full(expected.size, 1e-6),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": None},
        {"more": np.zeros(1)},
        {"pattern": np.ones(4)},
        {"pattern": np.ones(0, "f4")},
        {"pattern": np.ones((2, 2), "f4")},
        {"expected": np.zeros(3)},
        {"expected": np.zeros(96, "f4")},
        {"positions": np.full(96, -1)},
        {"positions": np.zeros(96)},
    ],
    ids=str,
)
def test_selftest_of_other_tensors(artifact, tmp_path, samples, change):
    root = shutil.copytree(artifact, tmp_path / "conv1")
    tensors = {name: array for name, array in {**selftest_tensors(samples()), **change}.items() if array is not None}
    replace(root, "selftest.safetensors", write_tensors(tensors).data)
    with pytest.raises(ArtifactError, match=r"selftest.safetensors"):
        load(root, selftest=True)


# ---- safetensors ----


def pack(header: object, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, dtype: str = "F32", shape: object = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TENSORS = {
    "nothing": b"",
    "short": b"\0\0\0",
    "no header": pack(b"", b""),
    "header too long": pack({}, b"", 100),
    "header huge": pack({}, b"", 2**64 - 1),
    "header a list": pack(b"[]", b""),
    "header a string": pack(b'"x"', b""),
    "duplicate tensors": pack(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}', b""),
    "hole": pack({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20)),
    "hole at the start": pack({"a": tensor(4, 12)}, bytes(12)),
    "overlap": pack({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "same data twice": pack({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)),
    "trailing data": pack({"a": tensor(0, 8)}, bytes(9)),
    "beyond the end": pack({"a": tensor(0, 8)}, bytes(7)),
    "backwards": pack({"a": tensor(8, 0)}, bytes(8)),
    "negative": pack({"a": tensor(-8, 0)}, bytes(8)),
    "wrong size": pack({"a": tensor(0, 8, shape=[3])}, bytes(8)),
    "huge shape": pack({"a": tensor(0, 8, shape=[2**40, 2**40, 2**40])}, bytes(8)),
    "negative shape": pack({"a": tensor(0, 8, shape=[-1, -2])}, bytes(8)),
    "shape of floats": pack({"a": tensor(0, 8, shape=[2.0])}, bytes(8)),
    "shape of flags": pack({"a": tensor(0, 4, shape=[True])}, bytes(4)),
    "shape a number": pack({"a": tensor(0, 8, shape=2)}, bytes(8)),
    "rank 99": pack({"a": tensor(0, 4, shape=[1] * 99)}, bytes(4)),
    "unknown dtype": pack({"a": tensor(0, 8, dtype="F33")}, bytes(8)),
    "dtype a list": pack({"a": tensor(0, 8, dtype=["F32"])}, bytes(8)),
    "unknown key": pack({"a": {**tensor(0, 8), "x": 1}}, bytes(8)),
    "missing key": pack({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "three offsets": pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, bytes(8)),
    "one offset": pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, bytes(8)),
    "tensor a number": pack({"a": 1}, b""),
    "metadata of numbers": pack({"__metadata__": {"a": 1}}, b""),
    "deep": pack(b'{"a":' + b"[" * 100_000, b""),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_refused(case):
    with pytest.raises(ArtifactError, match=r"^file"):
        read_tensors(TENSORS[case], "file")


def test_tensors_agree_with_the_safetensors_package():
    library = pytest.importorskip("safetensors.numpy")
    tensors = {
        "a": np.arange(5, dtype=np.int8),
        "b": np.random.default_rng(0).standard_normal((3, 4, 5)),
        "c": np.zeros((0, 3), np.float16),
        "d": np.array(3, np.float32),
    }
    for data in (library.save(tensors, metadata={"x": "y"}), write_tensors(tensors).data):
        for read in (read_tensors(data, "file"), library.load(data)):
            assert set(read) == set(tensors)
            for name, array in tensors.items():
                np.testing.assert_array_equal(read[name], array)
                assert read[name].dtype == array.dtype and read[name].shape == array.shape


def test_file_that_shrinks(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    entry = FileEntry("a", 5, hashlib.sha256(b"12345").hexdigest())
    assert read_file(tmp_path, entry) == b"12345"


# ---- mutations ----


def mutate(data: bytes, rng: random.Random) -> bytes:
    kind, at = rng.randrange(5), rng.randrange(len(data))
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if kind == 3:
        piece = rng.choice([b"null", b"-1", b"1e999", b'"', b"{}", b"[", b"..", b"18446744073709551615", b"\xff", b"/"])
        return data[:at] + piece + data[at + rng.randrange(3) :]
    other = rng.randrange(len(data))
    return data[:at] + data[other : other + 60] + data[at:]


def test_mutated_manifests(artifact, tmp_path):
    """Only typed errors. (Reading the manifest alone: a mutation that is harmless text is accepted.)"""
    data, rng, accepted = (artifact / "manifest.json").read_bytes(), random.Random(1), 0
    for _ in range(1500):
        (tmp_path / "manifest.json").write_bytes(mutate(data, rng))
        try:
            read_manifest(tmp_path)
            accepted += 1
        except SepcompileError:
            pass
    assert accepted < 1000


def test_mutated_tensors(artifact):
    data, rng = (artifact / "weights.safetensors").read_bytes(), random.Random(2)
    for _ in range(3000):
        try:
            for array in read_tensors(mutate(data, rng), "file").values():
                assert array.nbytes <= len(data) + 60
        except ArtifactError:
            pass


# ---- choosing a variant ----


def test_the_first_variant_that_runs_is_taken(tmp_path, samples, variant, write_sample):
    sample = samples()
    path = write_sample(
        tmp_path / "a",
        sample,
        variants=[
            variant(sample, "plain"),
            variant(sample, "pi", arch="aarch64" if cpu.machine() != "aarch64" else "x86_64", requires=("neon",)),
            variant(sample, "future", requires=("x1", "x2", "x3")),
        ],
    )
    assert [v.target for v in read_manifest(path).variants] == ["future", "pi", "plain"]
    assert load(path).variant == "plain"
    assert load(path, variant="plain").variant == "plain"
    report = verify(path)
    assert report.passed and [v.runs for v in report.variants] == [False, False, True]
    assert report.variants[0].missing == ("x1", "x2", "x3")
    with pytest.raises(ArtifactError, match="future needs x1, x2, x3"):
        load(path, variant="future")
    with pytest.raises(ArtifactError, match="pi needs a CPU of architecture"):
        load(path, variant="pi")
    with pytest.raises(ArtifactError, match="no variant 'other'; it has future, pi, plain"):
        load(path, variant="other")


def test_another_system_is_refused(artifact, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ArtifactError, match="darwin"):
        load(artifact)


# ---- CPU features ----


def test_features_of_this_machine():
    assert cpu.machine() in ("x86_64", "aarch64", "armv7", "riscv64")
    if cpu.machine() == "x86_64":
        assert {"sse2", "sse3", "pni"} <= cpu.features()
        assert cpu_x86.features("") <= cpu.features(), "NumPy found what the kernel does not list"
    assert cpu.missing(("no such feature",)) == ("no such feature",)


def test_features_of_other_machines(monkeypatch):
    info = "processor\t: 0\nFeatures\t: fp asimd crc32\n\nprocessor\t: 1\nFeatures\t: fp asimd asimddp\n"
    monkeypatch.setattr(cpu_arm, "_bits", lambda entry, names: set())
    assert cpu_arm.features(info, "aarch64") == {"fp", "asimd"}
    monkeypatch.setattr(cpu_arm, "_bits", lambda entry, names: set(names.split()[12:14]))
    assert cpu_arm.features("Features : asimd", "armv7") == {"neon", "vfpv3"}
