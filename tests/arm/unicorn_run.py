"""Runs functions of Arm and RISC-V libraries in this process, by Unicorn: no device, no root, no toolchain.

``Emulator`` maps a linked ELF library, hands out buffers with unmapped memory on both sides, and calls functions by the
C calling convention. ``EmulatedKernels`` runs a compiled variant's steps with it, as ``tests.compile.guarded`` does
natively. An access outside a buffer, or an instruction that the emulated core lacks, is an ``EmulationError``.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import unicorn
from elftools.elf.elffile import ELFFile
from unicorn import arm64_const as a64
from unicorn import arm_const as a32
from unicorn import riscv_const as rv

from sepcompile.codegen.link import link_objects, memory_object
from sepcompile.codegen.plan import Compiled
from sepcompile.targets import Target

PAGE = 0x1000
_RELATIVE = {23, 1027, 3}  # R_ARM_RELATIVE, R_AARCH64_RELATIVE, R_RISCV_RELATIVE
_LIBRARY, _STACK, _STACK_BYTES, _RETURN, _HEAP = 0x0100_0000, 0x0800_0000, 0x10_0000, 0x0700_0000, 0x1000_0000


class EmulationError(AssertionError):
    """The emulated code did what the core or the memory does not allow."""


@dataclass(frozen=True)
class Core:
    """What Unicorn needs to know about a kind of core."""

    arch: int
    mode: int
    model: int
    arguments: tuple[int, ...]
    result: int
    stack: int
    link: int
    counter: int
    word: int


def _core64(model: int) -> Core:
    registers = tuple(getattr(a64, f"UC_ARM64_REG_X{i}") for i in range(8))
    return Core(
        unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, model, registers, registers[0], a64.UC_ARM64_REG_SP,
        a64.UC_ARM64_REG_LR, a64.UC_ARM64_REG_PC, 8,
    )  # fmt: skip


def _core32(model: int, mode: int = unicorn.UC_MODE_ARM) -> Core:
    registers = tuple(getattr(a32, f"UC_ARM_REG_R{i}") for i in range(4))
    return Core(
        unicorn.UC_ARCH_ARM, mode, model, registers, registers[0], a32.UC_ARM_REG_SP, a32.UC_ARM_REG_LR,
        a32.UC_ARM_REG_PC, 4,
    )  # fmt: skip


def _riscv(model: int) -> Core:
    registers = tuple(getattr(rv, f"UC_RISCV_REG_A{i}") for i in range(8))
    return Core(
        unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64, model, registers, registers[0], rv.UC_RISCV_REG_SP,
        rv.UC_RISCV_REG_RA, rv.UC_RISCV_REG_PC, 8,
    )  # fmt: skip


_M_CLASS = unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
CORES = {
    "armv8.0": _core64(a64.UC_CPU_ARM64_A72),
    "armv8.2": _core64(a64.UC_CPU_ARM64_MAX),
    "armv7": _core32(a32.UC_CPU_ARM_CORTEX_A9),  # NEON without fused multiply-add
    "cortex-a7": _core32(a32.UC_CPU_ARM_CORTEX_A7),
    "cortex-m4": _core32(a32.UC_CPU_ARM_CORTEX_M4, _M_CLASS),
    "cortex-m7": _core32(a32.UC_CPU_ARM_CORTEX_M7, _M_CLASS),
    "cortex-m33": _core32(a32.UC_CPU_ARM_CORTEX_M33, _M_CLASS),
    "riscv64": _riscv(rv.UC_CPU_RISCV64_SIFIVE_U54),  # rv64gc; Unicorn has no vectors
}


def core_of(target: Target) -> str:
    """The emulated core that has what a target requires and, as far as Unicorn has one, no more."""
    if target.name in CORES:
        return target.name
    if target.arch == "aarch64":
        return "armv8.2" if "asimddp" in target.requires else "armv8.0"
    return "cortex-a7" if "vfpv4" in target.requires else "armv7"


@dataclass(frozen=True)
class Memory:
    """A buffer in the emulated machine, with unmapped memory before its first page and behind its last."""

    machine: unicorn.Uc
    address: int
    nbytes: int

    def write(self, data: np.ndarray | bytes) -> Memory:
        """Fill the buffer; ``data`` has its size."""
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        assert len(raw) == self.nbytes, (len(raw), self.nbytes)
        self.machine.mem_write(self.address, raw)
        return self

    def read(self, dtype: str) -> np.ndarray:
        """The buffer's content."""
        return np.frombuffer(bytes(self.machine.mem_read(self.address, self.nbytes)), dtype).copy()


class Emulator:
    """A core of ``CORES`` with the ELF file ``library`` in its memory."""

    def __init__(self, core: str, library: bytes) -> None:
        self.core = CORES[core]
        self.machine = unicorn.Uc(self.core.arch, self.core.mode)
        self.machine.ctl_set_cpu_model(self.core.model)
        self._enable_vectors()
        self._symbols = _map_library(self.machine, library)
        self.machine.mem_map(_STACK, _STACK_BYTES)
        self.machine.mem_map(_RETURN, PAGE)
        self.machine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._note_fault)
        self._next, self._fault = _HEAP, ""
        self._mapped: list[tuple[int, int]] = []

    def _enable_vectors(self) -> None:
        if self.core.arch == unicorn.UC_ARCH_ARM64:
            self.machine.reg_write(a64.UC_ARM64_REG_CPACR_EL1, 3 << 20)
        elif self.core.arch == unicorn.UC_ARCH_RISCV:
            self.machine.reg_write(rv.UC_RISCV_REG_MSTATUS, 3 << 13)  # FS: the floating-point unit is on
        elif self.core.mode == unicorn.UC_MODE_ARM:
            self.machine.reg_write(a32.UC_ARM_REG_C1_C0_2, 0xF << 20)
            self.machine.reg_write(a32.UC_ARM_REG_FPEXC, 1 << 30)

    def _note_fault(
        self, _machine: unicorn.Uc, access: int, address: int, size: int, _value: int, _data: object
    ) -> bool:
        what = "write" if access == unicorn.UC_MEM_WRITE_UNMAPPED else "read or fetch"
        self._fault = f": {what} of {size} bytes at {address:#x}, outside every buffer"
        return False

    def guarded(self, nbytes: int, at_end: bool = True, shift: int = 0) -> Memory:
        """``nbytes`` at the end of mapped pages, or at their start; ``shift`` bytes away from the border."""
        size = -(-max(nbytes + shift, 1) // PAGE) * PAGE
        base, self._next = self._next, self._next + size + PAGE
        self.machine.mem_map(base, size)
        self._mapped.append((base, size))
        return Memory(self.machine, base + (size - nbytes - shift if at_end else shift), nbytes)

    def release(self) -> None:
        """Unmap every buffer."""
        for base, size in self._mapped:
            self.machine.mem_unmap(base, size)
        self._mapped, self._next = [], _HEAP

    def call(self, symbol: str, *arguments: int) -> int:
        """Call a function with integers and addresses as arguments; its integer result."""
        core, machine = self.core, self.machine
        direct, rest = arguments[: len(core.arguments)], arguments[len(core.arguments) :]
        for register, value in zip(core.arguments, direct, strict=False):
            machine.reg_write(register, value)
        top = _STACK + _STACK_BYTES - 256
        pushed = b"".join((value % 2 ** (8 * core.word)).to_bytes(core.word, "little") for value in rest)
        stack = (top - len(pushed)) & ~15
        machine.mem_write(stack, pushed)
        machine.reg_write(core.stack, stack)
        entry = self._symbols[symbol]
        # Thumb code is called by an odd address; it returns to one as well.
        machine.reg_write(core.link, _RETURN | (entry & 1 or int(core.mode == _M_CLASS)))
        try:
            machine.emu_start(entry | int(core.mode == _M_CLASS), _RETURN)
        except unicorn.UcError as error:
            where = machine.reg_read(core.counter) - _LIBRARY
            raise EmulationError(f"{symbol}: {error} at library offset {where:#x}{self._fault}") from error
        assert machine.reg_read(core.stack) == stack, "the function did not restore the stack pointer"
        return int(machine.reg_read(core.result))


def _map_library(machine: unicorn.Uc, library: bytes) -> dict[str, int]:
    """Map an ELF file's segments with its relative relocations applied; addresses of its symbols."""
    file = ELFFile(io.BytesIO(library))
    segments = [segment for segment in file.iter_segments() if segment["p_type"] == "PT_LOAD"]
    base = 0 if file["e_type"] == "ET_EXEC" else _LIBRARY
    first = min(base + segment["p_vaddr"] for segment in segments) & ~(PAGE - 1)
    last = max(base + segment["p_vaddr"] + segment["p_memsz"] for segment in segments)
    machine.mem_map(first, (last - first + PAGE - 1) & ~(PAGE - 1))
    for segment in segments:
        machine.mem_write(base + segment["p_vaddr"], segment.data())
    word = file.elfclass // 8
    for section in file.iter_sections():
        if section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            for relocation in section.iter_relocations():
                _relocate(machine, relocation, base, word)
    tables = [section for section in file.iter_sections() if section["sh_type"] in ("SHT_DYNSYM", "SHT_SYMTAB")]
    return {s.name: base + s["st_value"] for table in tables for s in table.iter_symbols() if s.name}


def _relocate(machine: unicorn.Uc, relocation: object, base: int, word: int) -> None:
    entry = relocation.entry  # type: ignore[attr-defined]
    assert entry["r_info_type"] in _RELATIVE, f"relocation {entry['r_info_type']} is not supported"
    where = base + entry["r_offset"]
    form = "<Q" if word == 8 else "<I"
    addend = entry["r_addend"] if "r_addend" in entry else struct.unpack(form, machine.mem_read(where, word))[0]
    machine.mem_write(where, struct.pack(form, base + addend))


class EmulatedKernels:
    """The linked kernels of one variant, on an emulated core."""

    def __init__(self, compiled: Compiled, target: Target) -> None:
        self.plan, self.weights = compiled.plan, compiled.weights
        symbols = tuple(step.symbol for step in self.plan.steps)
        objects = [compiled.object_code, _memory_object(target.triple)]
        self.emulator = Emulator(core_of(target), link_objects(objects, exports=symbols, soname="kernels.so"))

    def run(self, x: np.ndarray, dtype: str, at_end: bool = True, shift: int = 0, by_task: bool = False) -> np.ndarray:
        """The output image of the input image ``x``, flat. Intermediates and scratch start out as NaN."""
        plan, guarded = self.plan, self.emulator.guarded
        buffers = {
            "x": guarded(plan.x_bytes, at_end, shift).write(x),
            "y": self._poisoned(plan.y_bytes, at_end, shift),
        }
        for name, array in self.weights.items():
            buffers[f"w:{name}"] = guarded(array.nbytes, at_end, shift).write(array)
        for name, nbytes in plan.intermediates:
            buffers[f"t:{name}"] = self._poisoned(nbytes, at_end, shift)
        for step in plan.steps:
            scratch = self._poisoned(step.scratch_bytes, at_end, 0)
            operands = [buffers[name].address for name in step.operands]
            ranges = [(t, t + 1) for t in reversed(range(step.tasks))] if by_task else [(0, step.tasks)]
            for begin, end in ranges:
                self.emulator.call(step.symbol, *operands, scratch.address, begin, end)
        y = buffers["y"].read(dtype)
        self.emulator.release()
        return y

    def _poisoned(self, nbytes: int, at_end: bool, shift: int) -> Memory:
        return self.emulator.guarded(nbytes, at_end, shift).write(b"\xff" * nbytes)


@cache
def _memory_object(triple: str) -> bytes:
    return memory_object(triple)
