"""Arm targets by name, by alias, and `native` on an Arm machine."""

from __future__ import annotations

import pytest

from sepcompile import targets
from sepcompile.errors import TargetError
from sepcompile.runtime import cpu, cpu_arm

NEWER = {"crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp"}
PI_3 = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n"
BIG_LITTLE = PI_3 + "\nprocessor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n"


@pytest.mark.parametrize(
    ("alias", "name"),
    [("raspberry-pi-4", "cortex-a72"), ("raspberry-pi-5", "cortex-a76"), ("jetson-orin-cpu", "cortex-a78")],
)
def test_an_alias_is_its_target(alias: str, name: str) -> None:
    assert targets.get_target(alias) == targets.get_target(name)


def test_no_two_targets_share_a_name() -> None:
    names = [name for target in targets.list_targets() for name in (target.name, *target.aliases)]
    assert len(set(names)) == len(names)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"cortex-a72, .*raspberry-pi-4"):
        targets.get_target("raspberry-pi-6")


@pytest.mark.parametrize(
    ("arch", "features", "parts", "name"),
    [
        ("aarch64", {"fp", "asimd"}, {"0x41:0xd08"}, "cortex-a72"),
        ("aarch64", {"fp", "asimd"}, {"0x41:0xd03"}, "cortex-a53"),
        ("aarch64", {"fp", "asimd", *NEWER}, {"0x41:0xd0b"}, "cortex-a76"),
        ("aarch64", {"fp", "asimd", *NEWER}, {"0x41:0xd42"}, "cortex-a78"),
        # The features decide, whatever the part: a hypervisor may hide some.
        ("aarch64", {"fp", "asimd"}, {"0x41:0xd0b"}, None),
        ("armv7", {"neon", "vfpv3"}, {"0x41:0xc09"}, "armv7-neon"),
        ("armv7", {"neon", "vfpv3", "vfpv4", "idiva", "idivt"}, {"0x41:0xc07"}, "cortex-a7"),
    ],
)
def test_native_by_features_then_by_part(
    arch: str, features: set[str], parts: set[str], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "machine", lambda: arch)
    monkeypatch.setattr(cpu, "features", lambda: frozenset(features))
    monkeypatch.setattr(cpu, "parts", lambda: frozenset(parts))
    native = targets.native()
    assert set(native.requires) <= features
    assert name is None or native.name == name


def test_parts_of_all_cores_are_read() -> None:
    assert cpu_arm.parts(PI_3) == {"0x41:0xd03"}
    assert cpu_arm.parts(BIG_LITTLE) == {"0x41:0xd03", "0x41:0xd08"}
    assert cpu_arm.parts("model name : something else\n") == set()


def test_features_come_from_the_auxiliary_vector_first(monkeypatch: pytest.MonkeyPatch) -> None:
    info = "Features\t: fp asimd\n\nFeatures\t: fp asimd asimddp\n"
    monkeypatch.setattr(cpu_arm, "_bits", lambda entry, names: {"fp"} if entry == cpu_arm.AT_HWCAP else set())
    assert cpu_arm.features(info, "aarch64") == {"fp"}
    monkeypatch.setattr(cpu_arm, "_bits", lambda entry, names: set())
    assert cpu_arm.features(info, "aarch64") == {"fp", "asimd"}
