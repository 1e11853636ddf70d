"""Targets: one TOML file each, in the folder ``targets/`` or anywhere a user puts one.

A file says what the target is, which TVM target compiles for it, which CPU features a machine must have to run the
result, and the machine model that schedules are chosen by. Adding a target is writing a file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sepcompile.errors import TargetError
from sepcompile.runtime import cpu

FAMILIES = ("x86", "arm", "riscv", "cortex-m", "cuda")


@dataclass(frozen=True)
class Machine:
    """What schedules are chosen by: one core's vector unit and the memory around it.

    ``vector_bits`` and ``vector_registers`` describe the SIMD unit; ``tile_registers`` is how many of them a pointwise
    register tile may take, its weights and its broadcast input included: fewer where multiplying and adding needs
    others besides, as it does without a fused multiply-add. ``fma_ports`` how many fused multiply-adds start in
    a cycle, ``fma_latency`` after how many cycles a sum can be added to again, ``load_ports`` how many vectors are
    loaded in a cycle. Cache sizes are in bytes and per core (``l3_bytes``: one core's share, 0 without one).
    """

    vector_bits: int
    vector_registers: int
    tile_registers: int
    fma_ports: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    fma_latency: int = 4
    load_ports: int = 2

    @property
    def float_lanes(self) -> int:
        """float32 elements of one vector."""
        return self.vector_bits // 32


@dataclass(frozen=True)
class Gpu:
    """What CUDA schedules are chosen by: the GPU's multiprocessors and what each of them has.

    ``shared_bytes`` and ``threads`` are per multiprocessor; ``bandwidth_gbs`` is device memory's, ``fp32_gflops`` the
    ordinary cores' and ``tensor_gflops`` the tensor cores' rate for float16. ``capability`` is that of the newest GPU
    that the target has machine code for, 90 for compute capability 9.0.
    """

    multiprocessors: int
    shared_bytes: int
    threads: int
    l2_bytes: int
    bandwidth_gbs: int
    fp32_gflops: int
    tensor_gflops: int
    capability: int

    def one_thread(self) -> Machine:
        """The machine as one of its threads sees it, in the terms of a CPU."""
        return Machine(
            vector_bits=32,
            vector_registers=255,
            tile_registers=255,
            fma_ports=1,
            cores=self.multiprocessors,
            l1_bytes=self.shared_bytes,
            l2_bytes=self.l2_bytes,
            l3_bytes=self.l2_bytes,
        )


@dataclass(frozen=True)
class Target:
    """A target read from its TOML file.

    ``tvm`` is TVM's target dict, ``requires`` the CPU feature flags (as /proc/cpuinfo spells them), ``triple`` what zig
    links for, ``arch`` the machine's name in ``platform.machine()``. ``aliases`` are further names that find it.
    ``cpu_parts`` are the CPU's own numbers, as "implementer:part" in /proc/cpuinfo: of several targets whose features
    a machine has, ``native`` takes the one that names its part.

    A target of the family ``cortex-m`` has no operating system (``bare``): nothing but a static library is for it.

    A target of the family ``cuda`` has a ``gpu``, and ``images``: the cubins (``sm_90``) and PTX (``compute_75``) that
    its artifacts carry; its ``arch`` is ``cuda``, and nothing is linked.
    """

    name: str
    family: str
    description: str
    arch: str
    triple: str
    tvm: Mapping[str, object]
    requires: tuple[str, ...]
    machine: Machine
    example_devices: tuple[str, ...] = ()
    gpu: Gpu | None = None
    images: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    cpu_parts: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Whether its programs run without an operating system and a loader."""
        return self.family == "cortex-m"


def folder() -> Path:
    """Where the target files lie: inside the installed package, or at the top of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "_data" / "targets"
    return installed if installed.is_dir() else here.parent / "targets"


def list_targets() -> tuple[Target, ...]:
    """Every target that ships with sepcompile, by name."""
    return tuple(read_target(path) for path in sorted(folder().glob("*.toml")))


def get_target(name: str | os.PathLike[str]) -> Target:
    """A target by name, ``native`` for this machine, or the path of a TOML file.

    Raises ``TargetError`` for a name that is not known and for a file that is not a target.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else name
    if not isinstance(text, str) or not text:
        raise TargetError(f"target={name!r} must be a name, 'native' or the path of a TOML file")
    if text == "native":
        return native()
    if text.endswith(".toml"):
        return read_target(Path(text))
    known = {path.stem: path for path in sorted(folder().glob("*.toml"))}
    if text in known:
        return read_target(known[text])
    targets = list_targets()
    for target in targets:
        if text in target.aliases:
            return target
    names = [*known, *(alias for target in targets for alias in target.aliases)]
    raise TargetError(f"target={text!r} is unknown; known are native, {', '.join(names)}, or a path to a TOML file")


def native() -> Target:
    """The best target that this machine can run, chosen from CPU feature flags, with this machine's cores and caches.

    Never by the CPU's model name: under a hypervisor the name and the features disagree. Of targets with the same
    features the one that names the CPU's part number is taken, if there is one.
    """
    arch, features, parts = cpu.machine(), cpu.features(), cpu.parts()
    fitting = [t for t in list_targets() if t.arch == arch and set(t.requires) <= features]
    if not fitting:
        raise TargetError(f"target='native': none runs on this machine ({arch}); give one by name to cross-compile")
    best = max(fitting, key=lambda t: (len(t.requires), bool(parts & set(t.cpu_parts)), t.machine.vector_bits))
    return replace(best, machine=replace(best.machine, cores=_cores(), **_caches()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _caches() -> dict[str, int]:
    """Data cache sizes of core 0 from sysfs; a level that cannot be read keeps the target file's figure."""
    found: dict[str, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind = (entry / "level").read_text().strip(), (entry / "type").read_text().strip()
            size = (entry / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and level in "12":
            found[f"l{level}_bytes"] = int(size[:-1]) * 1024
    return found


def read_target(path: Path) -> Target:
    """Read and check one target file; raises ``TargetError`` naming the file and the field."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"target file {path}: {error}") from error
    reader = _Table(str(path), data)
    if data.get("family") == "cuda":
        return _read_cuda(path, reader)
    machine, requires, link = reader.table("machine"), reader.table("requires"), reader.table("link")
    target = Target(
        name=path.stem,
        family=reader.text("family"),
        description=reader.text("description"),
        arch=link.text("arch"),
        triple=link.text("triple"),
        tvm=dict(reader.table("tvm").data),
        requires=requires.texts("features"),
        machine=_read_machine(machine),
        example_devices=reader.texts("example_devices"),
        aliases=reader.texts("aliases", optional=True),
        cpu_parts=requires.texts("cpu_parts", optional=True),
    )
    for table in (reader, machine, requires, link):
        table.done()
    if target.family not in FAMILIES:
        raise TargetError(f"target file {path}: family={target.family!r} must be one of {', '.join(FAMILIES)}")
    return target


def _read_machine(table: _Table) -> Machine:
    optional = {"fma_latency", "load_ports"}
    names = [name for name in Machine.__dataclass_fields__ if name not in optional or name in table.data]
    return Machine(**{name: table.integer(name, least=0 if name == "l3_bytes" else 1) for name in names})


def _read_cuda(path: Path, reader: _Table) -> Target:
    table, compiler = reader.table("gpu"), reader.table("nvrtc")
    images = compiler.texts("images")
    wrong = [image for image in images if not re.fullmatch(r"(sm|compute)_[0-9]{2,3}", image)]
    if wrong or not images:
        raise TargetError(f"target file {path}: images={list(images)} must be like 'sm_90' or 'compute_75'")
    numbers = {name: table.integer(name) for name in Gpu.__dataclass_fields__ if name != "capability"}
    gpu = Gpu(**numbers, capability=max(int(image.partition("_")[2]) for image in images))
    target = Target(
        name=path.stem,
        family=reader.text("family"),
        description=reader.text("description"),
        arch="cuda",
        triple="none",
        tvm={"kind": "cuda"},
        requires=(),
        machine=gpu.one_thread(),
        example_devices=reader.texts("example_devices"),
        gpu=gpu,
        images=images,
    )
    for part in (reader, table, compiler):
        part.done()
    return target


class _Table:
    """A TOML table whose every key must be read, with the right type."""

    def __init__(self, where: str, data: Mapping[str, object]) -> None:
        self.where, self.data = where, data
        self._read: set[str] = set()

    def _get(self, key: str, kind: type) -> object:
        self._read.add(key)
        value = self.data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TargetError(f"target file {self.where}: {key}={value!r} must be a {kind.__name__}")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str))

    def integer(self, key: str, least: int = 1) -> int:
        value = self._get(key, int)
        if not isinstance(value, int) or value < least:
            raise TargetError(f"target file {self.where}: {key}={value!r} must be at least {least}")
        return value

    def texts(self, key: str, optional: bool = False) -> tuple[str, ...]:
        if optional and key not in self.data:
            return ()
        values = self._get(key, list)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise TargetError(f"target file {self.where}: {key}={values!r} must be a list of strings")
        return tuple(values)

    def table(self, key: str) -> _Table:
        value = self._get(key, dict)
        assert isinstance(value, dict)
        return _Table(f"{self.where} [{key}]", value)

    def done(self) -> None:
        if unknown := sorted(set(self.data) - self._read):
            raise TargetError(f"target file {self.where}: unknown key {unknown[0]!r}")
