"""What an emulated core tells about itself: cache geometry for the counts, and the files that libraries read.

LiteRT's XNNPACK picks its kernels by /proc/cpuinfo and sysfs. qemu-user opens a path below its prefix first, so files
written there are what the guest sees; the real machine's would be an x86's and crash it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepcompile.bench.emulate.sysroot import QEMU
from sepcompile.bench.errors import BenchError
from sepcompile.targets import Target

LINE_BYTES = 64
# Ways of L1 data and L2 by part number, from Arm's technical reference manuals; 4 and 16 elsewhere.
WAYS = {
    "0xc07": (4, 8), "0xd03": (4, 16), "0xd05": (4, 4), "0xd08": (2, 16),
    "0xd0b": (4, 8), "0xd0c": (4, 8), "0xd41": (4, 8), "0xd42": (4, 8),
}  # fmt: skip
WAYS_ELSEWHERE = (4, 16)
# llvm-mca's CPUs that stand for a core. Cores in order have none: LLVM's models of A53 and A55 rank XNNPACK's kernels
# for them in the reverse of what their authors measured.
MODELS = {"aarch64": ("cortex-a72", "neoverse-n1"), "x86_64": ("sapphirerapids",)}
OUT_OF_ORDER = ("0xd08", "0xd0a", "0xd0b", "0xd0c", "0xd0d", "0xd41", "0xd42", "0xd4b")
# What qemu 7.2 calls a CPU that has a target's instructions. Never its own choice, `max`: XNNPACK would take SME.
CPUS = {"0xc07": "cortex-a7", "0xd03": "cortex-a53", "0xd08": "cortex-a72", "0xd0b": "cortex-a76"}
CPUS_ELSEWHERE = {"arm64": "neoverse-n1", "armhf": "cortex-a15"}
HERE = "here"  # stands for Debian's name of this machine's own architecture, which needs no sysroot
DEBIAN = {"aarch64": "arm64", "armv7": "armhf", "armv7l": "armhf", "x86_64": HERE}
ZIG = {"arm64": "aarch64-linux-gnu.2.28", "armhf": "arm-linux-gnueabihf.2.28", HERE: "x86_64-linux-gnu.2.28"}
PROGRAMS = {**QEMU, HERE: "qemu-x86_64"}


@dataclass(frozen=True)
class Core:
    """A target as an emulated core. ``part`` is "implementer:part" as in /proc/cpuinfo, sizes are in bytes.

    ``debian`` names the sysroot, ``cpu`` qemu's CPU, ``models`` llvm-mca's CPUs, the one nearest to this core first.
    """

    target: Target
    debian: str
    cpu: str
    models: tuple[str, ...]
    part: str
    l1: tuple[int, int]
    l2: tuple[int, int]

    @property
    def plugin_options(self) -> str:
        """The cache geometry as the plugin takes it."""
        return f"l1={self.l1[0]},w1={self.l1[1]},l2={self.l2[0]},w2={self.l2[1]},line={LINE_BYTES}"


def core_of(target: Target) -> Core:
    """The core that a target stands for; raises BenchError where nothing here can emulate it."""
    debian = DEBIAN.get(target.arch) if target.gpu is None else None
    if debian is None:
        known = ", ".join(sorted(set(DEBIAN)))
        raise BenchError(f"target {target.name}: {target.arch} cannot be emulated here; architectures: {known}")
    part = target.cpu_parts[0] if target.cpu_parts else "0x41:0x000"
    number = part.partition(":")[2]
    ways = WAYS.get(number, WAYS_ELSEWHERE)
    models = MODELS.get(target.arch, ())
    if debian == "arm64" and target.cpu_parts and number not in OUT_OF_ORDER:
        models = ()
    if number in ("0xd0b", "0xd0c", "0xd41"):
        models = tuple(reversed(models))
    cpu = CPUS.get(number, CPUS_ELSEWHERE.get(debian, "max"))
    machine = target.machine
    return Core(target, debian, cpu, models, part, (machine.l1_bytes, ways[0]), (machine.l2_bytes, ways[1]))


def write_identity(core: Core, root: Path) -> None:
    """Write the core's /proc/cpuinfo and /sys/devices/system/cpu below ``root``, as one CPU."""
    implementer, part = core.part.split(":")
    lines = {
        "processor": "0", "BogoMIPS": "108.00", "Features": " ".join(core.target.requires),
        "CPU implementer": implementer, "CPU architecture": "8", "CPU variant": "0x0", "CPU part": part,
        "CPU revision": "3",
    }  # fmt: skip
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/cpuinfo").write_text("".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n")
    files = {"possible": "0", "present": "0", "online": "0", "kernel_max": "255"}
    files |= {f"cpu0/cpufreq/cpuinfo_{end}_freq": "1800000" for end in ("min", "max")}
    files |= {"cpu0/topology/physical_package_id": "0", "cpu0/topology/core_id": "0"}
    groups = ("cluster_cpus_list", "core_siblings_list", "package_cpus_list", "thread_siblings_list")
    files |= {f"cpu0/topology/{group}": "0" for group in groups}
    levels = [(1, "Data", core.l1), (1, "Instruction", core.l1), (2, "Unified", core.l2)]
    for index, (level, kind, (size, ways)) in enumerate(levels):
        values = {
            "level": level, "type": kind, "size": f"{size // 1024}K", "shared_cpu_list": "0",
            "coherency_line_size": LINE_BYTES, "ways_of_associativity": ways,
            "number_of_sets": size // LINE_BYTES // ways,
        }  # fmt: skip
        files |= {f"cpu0/cache/index{index}/{key}": str(value) for key, value in values.items()}
    for name, value in files.items():
        path = root / "sys/devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
