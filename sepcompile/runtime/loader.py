"""Loading, verifying and reading artifacts.

Nothing of an artifact's native code is mapped before its manifest, the size and SHA-256 of every file, the tensors and
the machine it is for have been checked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from . import cpu, cuda
from .cuda_manifest import CUDA_ABI, ImageEntry
from .cuda_residual import CudaResidualLayer
from .elf import check_library
from .errors import ArtifactError
from .files import check_file, check_private, read_file
from .layer import Layer
from .manifest import MANIFEST, SELFTEST, SELFTEST_TENSORS, WEIGHTS, Manifest, VariantEntry
from .manifest import read_manifest as _read_manifest
from .native import ENTRY_ABI, NativeLibrary
from .residual import ResidualLayer
from .results import SelfTest, VariantReport, VerifyReport
from .signature import PublicKey, public_keys
from .tensors import DTYPES, read_tensors

_Tensors = dict[str, np.ndarray]


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    selftest: bool = False,
    variant: str | None = None,
    require_signature: PublicKey | Sequence[PublicKey] | None = None,
) -> Layer:
    """The layer of the artifact in the folder ``path``, as the best variant that this machine can run.

    ``threads``: threads that one call may use; None: as many as this process has CPUs; 1: never another thread.
    ``selftest``: run the artifact's self-test too. ``variant``: the target of the variant to use instead of the best.
    ``require_signature``: a public key, or several, of which one must have signed the artifact (``public_keys``).
    Raises ``ArtifactError`` where the artifact is damaged, of another version, not for this machine or not signed so.
    """
    manifest, tensors = _checked(_folder(path), public_keys(require_signature))
    layer = _open(manifest, _choose(manifest, variant), tensors, threads)
    if selftest:
        report = layer.selftest()
        if not report.passed:
            raise ArtifactError(f"{manifest.path}: the self-test of variant {layer.variant!r} {report}")
    return layer


def verify(
    path: str | os.PathLike[str],
    threads: int | None = None,
    require_signature: PublicKey | Sequence[PublicKey] | None = None,
) -> VerifyReport:
    """Checks everything in an artifact, and runs the self-test of each variant that this machine can run.

    ``require_signature`` as for ``load``. Raises ``ArtifactError`` where files, manifest, tensors or the signature are
    wrong; a failed self-test is in the report.
    """
    manifest, tensors = _checked(_folder(path), public_keys(require_signature))
    reports = []
    for variant in manifest.variants:
        missing = _missing(variant)
        if missing:
            reports.append(VariantReport(variant.target, missing, None, for_c=variant.bare))
            continue
        try:
            report = _open(manifest, variant, tensors, threads).selftest()
            reports.append(VariantReport(variant.target, (), report, "" if report.passed else "self-test failed"))
        except ArtifactError as error:
            reports.append(VariantReport(variant.target, (), None, str(error)))
    nbytes = sum(entry.nbytes for entry in manifest.files.values())
    return VerifyReport(str(manifest.path), manifest.name, len(manifest.files), nbytes, tuple(reports))


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of the artifact in the folder ``path``, checked in itself; no other file is read.

    Raises ``ArtifactError``.
    """
    return _read_manifest(_folder(path))


def _folder(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).resolve()
    except TypeError as error:
        raise ArtifactError(f"path={path!r}: expected the path of an artifact's folder") from error
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, null characters
        raise ArtifactError(f"{path!r}: {error}") from error


def _checked(root: Path, signed_by: Sequence[bytes]) -> tuple[Manifest, _Tensors]:
    """The manifest and the weights, after every file has been checked."""
    manifest = _read_manifest(root, signed_by)
    check_private(root, (MANIFEST, *manifest.files))
    native = [variant for variant in manifest.variants if variant.cuda is None and not variant.bare]
    libraries = {variant.library: variant.arch for variant in native}
    tensors: _Tensors = {}
    for path, entry in manifest.files.items():
        if path == WEIGHTS:
            tensors = read_tensors(read_file(root, entry), str(root / path))
            continue
        first = check_file(root, entry)
        if path in libraries:
            check_library(first, libraries[path], str(root / path))
    for variant in manifest.variants:
        _check_weights(variant, tensors, f"{root / WEIGHTS}: variant {variant.target!r}")
        expected = ENTRY_ABI if variant.cuda is None else CUDA_ABI
        if variant.abi != expected:
            raise ArtifactError(f"{root}: variant {variant.target!r} has ABI {variant.abi}; expected {expected}")
    return manifest, tensors


def _check_weights(variant: VariantEntry, tensors: _Tensors, where: str) -> None:
    for weight in variant.weights:
        tensor = tensors.get(weight.key)
        if tensor is None:
            raise ArtifactError(f"{where}: tensor {weight.key!r} is missing")
        if tensor.dtype.str != DTYPES[weight.dtype] or tensor.shape != weight.shape:
            raise ArtifactError(
                f"{where}: tensor {weight.key!r} is {tensor.dtype.name}{tensor.shape}; "
                f"the manifest says {weight.dtype}{weight.shape}"
            )


def _missing(variant: VariantEntry) -> tuple[str, ...]:
    """What this machine lacks for a variant, in words; empty where it can run."""
    if variant.cuda is not None:
        return cuda.missing(variant.cuda)
    if sys.platform != "linux":
        return (f"Linux (this is {sys.platform})",)
    if variant.arch != cpu.machine():
        return (f"a CPU of architecture {variant.arch} (this is {cpu.machine()})",)
    return cpu.missing(variant.requires)


def _choose(manifest: Manifest, wanted: str | None) -> VariantEntry:
    candidates = [variant for variant in manifest.variants if wanted in (None, variant.target)]
    if not candidates:
        names = ", ".join(variant.target for variant in manifest.variants)
        raise ArtifactError(f"{manifest.path}: no variant {wanted!r}; it has {names}")
    if all(variant.bare for variant in candidates):
        libraries = ", ".join(variant.library for variant in candidates)
        raise ArtifactError(
            f"{manifest.path}: {', '.join(variant.target for variant in candidates)} is for C programs on "
            f"microcontrollers, which Python cannot load; they link {libraries}, and include what lies in include/"
        )
    lacking = []
    for variant in candidates:
        missing = _missing(variant)
        if not missing:
            return variant
        lacking.append(f"{variant.target} needs {', '.join(missing)}")
    raise ArtifactError(f"{manifest.path}: this machine can run none of its variants: {'; '.join(lacking)}")


def _open(manifest: Manifest, variant: VariantEntry, tensors: _Tensors, threads: int | None) -> Layer:
    if variant.cuda is not None:
        return _open_cuda(manifest, variant, tensors)
    residual = manifest.residual is not None
    kind = ResidualLayer if residual else Layer
    return kind(
        name=manifest.name,
        variant=variant.target,
        library=NativeLibrary(manifest.path / variant.library, variant.symbol, residual),
        weights={weight.name: tensors[weight.key] for weight in variant.weights},
        input_spec=manifest.input,
        output_spec=manifest.output,
        threads=threads,
        selftest=lambda: _selftest(manifest),
        on_gpu=_gpu_opener(manifest, tensors),
    )


def _open_cuda(manifest: Manifest, variant: VariantEntry, tensors: _Tensors) -> cuda.CudaLayer:
    assert variant.cuda is not None

    def read_image(image: ImageEntry) -> bytes:
        return read_file(manifest.path, manifest.files[image.path])

    kind = cuda.CudaLayer if manifest.residual is None else CudaResidualLayer
    return kind(
        name=manifest.name,
        variant=variant.target,
        plan=variant.plan,
        cuda=variant.cuda,
        read_image=read_image,
        weights={weight.name: tensors[weight.key] for weight in variant.weights},
        input_spec=manifest.input,
        output_spec=manifest.output,
        selftest=lambda: _selftest(manifest),
    )


def _gpu_opener(manifest: Manifest, tensors: _Tensors) -> Callable[[], cuda.CudaLayer] | None:
    """What opens the variant that takes the tensors of GPUs, where the artifact has one."""
    variants = [variant for variant in manifest.variants if variant.cuda is not None]
    if not variants:
        return None

    def opener() -> cuda.CudaLayer:
        lacking: list[str] = []
        for variant in variants:
            assert variant.cuda is not None
            if not (words := cuda.missing(variant.cuda)):
                return _open_cuda(manifest, variant, tensors)
            lacking += words
        raise ArtifactError(f"{manifest.path}: none of its GPU variants runs here: {'; '.join(lacking)}")

    return opener


def _selftest(manifest: Manifest) -> SelfTest:
    where = str(manifest.path / SELFTEST)
    tensors = read_tensors(read_file(manifest.path, manifest.files[SELFTEST]), where)
    if set(tensors) != set(SELFTEST_TENSORS):
        raise ArtifactError(f"{where}: tensors {sorted(tensors)}; expected {', '.join(SELFTEST_TENSORS)}")
    batch = manifest.input.shape[0]
    shape = tuple(1 if size is None else size for size in (1 if batch is None else batch, *manifest.input.shape[1:]))
    pattern, positions, expected, tolerance = (tensors[name] for name in SELFTEST_TENSORS)
    if pattern.dtype != manifest.input.dtype or pattern.ndim != 1 or pattern.size == 0:
        raise ArtifactError(f"{where}: pattern is {pattern.dtype.name}{pattern.shape}; expected 1-D {manifest.input}")
    if any(tensor.ndim != 1 or tensor.size != positions.size for tensor in (positions, expected, tolerance)):
        raise ArtifactError(f"{where}: positions, expected and tolerance must be 1-D and of one length")
    if positions.dtype != np.int64 or (positions.size and int(positions.min()) < 0):
        raise ArtifactError(f"{where}: positions must be int64 and not negative")
    if expected.dtype != np.float64 or tolerance.dtype != np.float64:
        raise ArtifactError(f"{where}: expected and tolerance must be float64")
    if manifest.residual is None:
        return SelfTest(pattern, shape, positions, expected, tolerance)
    second = (shape[0], *(int(size or 0) for size in manifest.residual.shape[1:]))
    return SelfTest(pattern, shape, positions, expected, tolerance, second, manifest.residual.dtype)
