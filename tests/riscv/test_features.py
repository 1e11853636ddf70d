"""What the loader finds out about a RISC-V CPU, and the targets that follow from it."""

from __future__ import annotations

import pytest

from sepcompile import targets
from sepcompile.runtime import cpu, cpu_riscv

SCALAR = 0x112D  # a, c, d, f, i, m
VECTOR = SCALAR | 1 << 21
DRAFT = "processor\t: 0\nhart\t\t: 0\nisa\t\t: rv64imafdcvu\nmmu\t\t: sv39\n"
NAMED = "hart\t: 0\nisa\t: rv64imafdcv_zicsr_zve32f_zve64d\n\nhart\t: 1\nisa\t: rv64imafdcv_zicsr_zve64d_zba\n"


def features(monkeypatch: pytest.MonkeyPatch, word: int, probed: int | None, info: str) -> set[str]:
    monkeypatch.setattr(cpu_riscv, "auxiliary", lambda entry: word)
    monkeypatch.setattr(cpu_riscv, "_probed", lambda key: probed)
    return cpu_riscv.features(info)


@pytest.mark.parametrize(
    ("word", "probed", "info", "vectors"),
    [
        (VECTOR, 0b111, NAMED, True),  # Linux 6.5 and later says so itself
        (VECTOR, 0b011, NAMED, False),
        (SCALAR, 0b111, NAMED, False),  # switched off for this process
        (VECTOR, None, NAMED, True),  # a vendor's kernel with the names of version 1.0
        (VECTOR, None, DRAFT, False),  # and one of a CPU with draft 0.7 (C906, C910)
        (VECTOR, None, "model name\t: another machine's\n", True),  # an emulator
        (VECTOR, None, "", True),
        (0, None, NAMED, True),  # a C library without getauxval
        (0, None, DRAFT, False),
    ],
)
def test_vectors_of_version_1_only(
    word: int, probed: int | None, info: str, vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features(monkeypatch, word, probed, info)
    assert set("imafdc") <= found
    assert ("v" in found) == vectors


def test_names_that_every_core_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features(monkeypatch, VECTOR, None, NAMED) == {*"imafdcv", "zicsr", "zve64d"}
    assert features(monkeypatch, 0, None, "") == set()


@pytest.mark.parametrize(("letters", "name"), [("imafdc", "riscv64"), ("imafdcv", "riscv64-v")])
def test_native(letters: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "machine", lambda: "riscv64")
    monkeypatch.setattr(cpu, "features", lambda: frozenset(letters))
    assert targets.native().name == name
