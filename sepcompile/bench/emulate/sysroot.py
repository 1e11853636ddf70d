"""A Debian userland of another architecture in a folder: what qemu-user needs to run Python, NumPy and LiteRT of ARM.

    python -m sepcompile.bench.emulate.sysroot build/arm [--arch arm64] [--arch armhf] [--arch riscv64]

Packages come from the Debian mirror that this machine uses, through apt with lists of its own, and are only unpacked;
wheels come through pip. Nothing outside the folder changes and no privileges are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepcompile.bench.errors import BenchError

DEFAULT = Path("build/arm")
STAMP = ".complete"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Debian's name of an architecture: what to unpack beside Python, and the wheels' platforms (none: NumPy is Debian's).
PACKAGES = {
    "arm64": ("python3", "libstdc++6", "libgomp1"),
    "armhf": ("python3", "libstdc++6", "libgomp1", "python3-numpy"),
    "riscv64": ("python3", "libstdc++6", "libgomp1", "python3-numpy"),
}
# The first release of Debian that has the architecture, where that may be newer than this machine's.
RELEASES = {"riscv64": "trixie"}
PLATFORMS = {"arm64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")}
WHEELS = ("numpy",)
PEERS = ("ai-edge-litert", "flatbuffers")
LIBRARIES = {"arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf", "riscv64": "riscv64-linux-gnu"}
QEMU = {"arm64": "qemu-aarch64", "armhf": "qemu-arm", "riscv64": "qemu-riscv64"}
MACHINES = {"aarch64": "arm64", "armv7l": "armhf", "riscv64": "riscv64"}  # platform.machine() to Debian's name


@dataclass(frozen=True)
class Sysroot:
    """``root`` is the unpacked userland, ``site`` NumPy where Debian's is not used, ``peers`` LiteRT."""

    arch: str
    root: Path
    site: Path
    peers: Path

    @property
    def python(self) -> Path:
        """Python of the other architecture."""
        found = sorted(self.root.glob("usr/bin/python3.[0-9]*"))
        if not found:
            raise BenchError(f"{self.root}: no Python in it; make it anew with `make arm-sysroot`")
        return found[0]

    def environment(self, root: Path | None = None, *, peers: bool = False) -> dict[str, str]:
        """Environment variables for Python under qemu; ``root`` stands in for ``self.root`` (see ``cores``)."""
        folders = [self.site, *([self.peers] if peers else [])]
        library = self.root / "usr/lib" / LIBRARIES[self.arch]
        return {
            "QEMU_LD_PREFIX": str(root or self.root),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": ":".join([*map(str, folders), str(self.root / "usr/lib/python3/dist-packages")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "QEMU_SET_ENV": f"LD_LIBRARY_PATH={library / 'blas'}:{library / 'lapack'}",
        }


def find(folder: Path, arch: str) -> Sysroot:
    """The sysroot that :func:`make` left in ``folder`` for Debian's ``arch``; raises BenchError where there is none."""
    base = (folder / arch).resolve()
    if not (base / STAMP).is_file():
        raise BenchError(
            f"no {arch} sysroot in {base}: make it with `make arm-sysroot`, or "
            f"`python -m sepcompile.bench.emulate.sysroot {folder} --arch {arch}`"
        )
    return Sysroot(arch, base / "root", base / "site", base / "peers")


def make(folder: Path, arch: str) -> Sysroot:
    """Make the sysroot, unless it is there. Raises BenchError naming the tool that failed or is missing."""
    base = (folder / arch).resolve()
    if not (base / STAMP).is_file():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        _unpack(base / "root", arch)
        result = Sysroot(arch, base / "root", base / "site", base / "peers")
        for target, names in ((result.site, WHEELS), (result.peers, PEERS)):
            target.mkdir()
            if arch in PLATFORMS:
                _install(target, names, PLATFORMS[arch], result.python.name.removeprefix("python"))
        (base / STAMP).touch()
    return find(folder, arch)


def _unpack(root: Path, arch: str) -> None:
    """Download packages and all they depend on, and unpack them; no package's scripts run."""
    with tempfile.TemporaryDirectory(prefix="sepcompile-apt-") as name:
        work = Path(name)
        for part in ("lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        (work / "status").touch()  # nothing is installed there, so apt fetches every dependency
        settings = {
            "APT::Architecture": arch, "APT::Architectures": arch, "Dir::State::Lists": work / "lists",
            "Dir::State::status": work / "status", "Dir::Cache": work / "cache", "Acquire::Languages": "none",
            "Debug::NoLocking": "true", "APT::Sandbox::User": "",
        }  # fmt: skip
        if arch in RELEASES:
            sources = work / "sources.list"
            sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {RELEASES[arch]} main\n", encoding="utf-8")
            settings |= {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-"}
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
        with contextlib.suppress(BenchError):  # a mirror amid an update lacks an index, which may not matter
            _run([*apt, "update"], "apt")
        _run([*apt, "-y", "--download-only", "--no-install-recommends", "install", *PACKAGES[arch]], "apt")
        for package in sorted((work / "cache/archives").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(root)], "dpkg")
    if not (root / "lib").exists():  # newer packages count on the link
        (root / "lib").symlink_to("usr/lib")


def _mirror() -> str:
    """The address of the Debian archive that this machine's apt uses."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
    found = [line.split() for line in _run(command, "apt").splitlines()]
    archives = [words[0] for words in found if words[1:] == ["Debian"] and "security" not in words[0]]
    if not archives:
        raise BenchError("apt-get indextargets: no Debian archive among this machine's package sources")
    return archives[0]


def _install(target: Path, names: Sequence[str], platforms: Sequence[str], version: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    tags = [part for platform in platforms for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "install", *options, *tags, "--python-version", version]
    _run([*command, "--target", str(target), *names], "python3-pip")


def _run(command: Sequence[str], package: str) -> str:
    """Run a tool to its end and return what it printed; raises BenchError with the end of what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not found; on Debian it is in the package {package}") from error
    if done.returncode:
        raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--arch", choices=list(PACKAGES), action="append", help="default: arm64")
    arguments = parser.parse_args()
    for arch in arguments.arch or ["arm64"]:
        try:
            print(make(arguments.folder, arch).root)
        except BenchError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
