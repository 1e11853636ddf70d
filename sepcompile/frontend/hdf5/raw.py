"""Bounded access to the bytes of an HDF5 file."""

from __future__ import annotations

from dataclasses import dataclass, field

from sepcompile.errors import UnsupportedError, WeightError

UNDEFINED = 2**64 - 1
# Blocks, messages and entries that may be read from one file: a cycle or a bomb ends here. A network of a thousand
# layers needs some tens of thousands.
MAX_STEPS = 2_000_000


@dataclass
class Raw:
    """The file's bytes; ``label`` begins every message. ``steps`` counts down the work that is left.

    ``heaps`` keeps the objects of the global heap collections that have been read, by address and index.
    """

    data: memoryview
    label: str
    steps: int = MAX_STEPS
    heaps: dict[int, dict[int, memoryview]] = field(default_factory=dict, repr=False)

    def fail(self, what: str) -> WeightError:
        """The error for damage."""
        return WeightError(f"{self.label}: damaged HDF5 file: {what}")

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for legal HDF5 that is not read."""
        advice = "accepted: groups, plain attributes and contiguous datasets, as Keras writes them"
        return UnsupportedError(f"{self.label}: HDF5 with {what}; {advice}")

    def step(self) -> None:
        """Counts one piece of work."""
        self.steps -= 1
        if self.steps < 0:
            raise self.fail(f"more than {MAX_STEPS} blocks")

    def take(self, offset: int, length: int, what: str) -> memoryview:
        """``length`` bytes at ``offset``."""
        self.step()
        if offset < 0 or length < 0 or offset + length > len(self.data):
            raise self.fail(f"{what} at byte {offset} needs {length} bytes, the file has {len(self.data)}")
        return self.data[offset : offset + length]

    def signed(self, offset: int, length: int, signature: bytes, what: str) -> memoryview:
        """A block that begins with ``signature``."""
        block = self.take(offset, length, what)
        if block[: len(signature)] != signature:
            raise self.fail(f"no {what} at byte {offset}")
        return block


@dataclass
class Cursor:
    """Reads little-endian fields off a block, never past its end."""

    raw: Raw
    block: memoryview
    what: str
    position: int = 0

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes."""
        end = self.position + length
        if length < 0 or end > len(self.block):
            raise self.raw.fail(f"{self.what} ends early")
        piece = self.block[self.position : end]
        self.position = end
        return piece

    def number(self, size: int) -> int:
        """The next unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def skip(self, length: int) -> None:
        """Passes over ``length`` bytes."""
        self.take(length)

    def align(self, size: int) -> None:
        """Passes over padding up to a multiple of ``size``."""
        self.take(min(-self.position % size, len(self.block) - self.position))

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.block) - self.position
