"""What the manifest says about a variant for GPUs: its images, and how each kernel is launched."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ArtifactError
from .fields import Fields
from .files import PATH_PATTERN

FAMILY = ARCH = "cuda"
CUDA_ABI = 1
"""Version of the launch records; the loader refuses any other."""
PRECISIONS = ("float32", "float16", "bfloat16", "tf32")
SCALARS = ("rows", "blocks")
_IMAGE = r"(sm|compute)_[0-9]{2,3}"
_MOST = 2**31 - 1


@dataclass(frozen=True)
class LaunchEntry:
    """How one kernel is launched (see ``sepcompile.codegen.plan.Launch``)."""

    unit: int
    tile: int
    times: int
    grid_y: int
    block: tuple[int, int, int]
    shared_bytes: int
    most_batch: int


@dataclass(frozen=True)
class ImageEntry:
    """One image: ``sm_90`` (a cubin) or ``compute_75`` (PTX), and its file."""

    arch: str
    path: str

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability it was made for."""
        digits = self.arch.partition("_")[2]
        return int(digits[:-1]), int(digits[-1])

    @property
    def is_ptx(self) -> bool:
        """Whether the driver compiles it for the GPU that it finds."""
        return self.arch.startswith("compute_")


@dataclass(frozen=True)
class CudaEntry:
    """The images of a variant, the launches of its plan's steps, and the type that a matrix product multiplies."""

    images: tuple[ImageEntry, ...]
    launches: tuple[LaunchEntry, ...]
    precision: str = "float32"


def read_cuda(fields: Fields, steps: int) -> CudaEntry:
    """The ``cuda`` object of a variant. Raises ``ArtifactError``."""
    images = []
    paths = fields.mapping("images")
    for arch in sorted(paths):
        image = Fields({"arch": arch, "path": paths[arch]}, f"{fields.where}.images")
        images.append(ImageEntry(image.text("arch", _IMAGE), image.text("path", PATH_PATTERN)))
    launches = [
        _launch(Fields(value, f"{fields.where}.launches[{i}]")) for i, value in enumerate(fields.array("launches", 64))
    ]
    # Artifacts from before TF32 do not say: theirs is the layer's dtype.
    precision = fields.text("precision", "|".join(PRECISIONS)) if fields.has("precision") else "float32"
    fields.done()
    if not images:
        raise ArtifactError(f"{fields.where}: images is empty; at least one is needed")
    if len(launches) != steps:
        raise ArtifactError(f"{fields.where}: {len(launches)} launches for {steps} steps")
    return CudaEntry(tuple(images), tuple(launches), precision)


def _launch(fields: Fields) -> LaunchEntry:
    sizes = fields.array("block", 3)
    if len(sizes) != 3 or any(type(size) is not int or not 1 <= size <= 1024 for size in sizes):
        raise fields.error("block", sizes, "three whole numbers from 1 to 1024")
    launch = LaunchEntry(
        fields.whole("unit", 1, _MOST),
        fields.whole("tile", 1, _MOST),
        fields.whole("times", 1, _MOST),
        fields.whole("grid_y", 1, 65535),
        (sizes[0], sizes[1], sizes[2]),
        fields.whole("shared_bytes", 0, 1 << 20),
        fields.whole("most_batch", 1, _MOST),
    )
    fields.done()
    return launch


def choose_image(images: tuple[ImageEntry, ...], capability: tuple[int, int]) -> ImageEntry | None:
    """The image for a GPU: its own cubin, else one of the same major version and a lower minor one, else PTX.

    Cubins of the embedded GPUs (Jetson) and the others do not run on each other. None where nothing fits.
    """
    cubins = [image for image in images if not image.is_ptx]
    exact = [image for image in cubins if image.capability == capability]
    if exact:
        return exact[0]
    near = [
        image
        for image in cubins
        if image.capability[0] == capability[0]
        and image.capability < capability
        and not _embedded(image.capability)
        and not _embedded(capability)
    ]
    ptx = [image for image in images if image.is_ptx and image.capability <= capability]
    found = sorted(near, key=lambda image: image.capability) or sorted(ptx, key=lambda image: image.capability)
    return found[-1] if found else None


def _embedded(capability: tuple[int, int]) -> bool:
    return capability in ((5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0))
