"""What the plugin counted: its files, and which of the blocks belong to which library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sepcompile.bench.errors import BenchError

Range = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other: where, how often, with which misses, and their bytes."""

    address: int
    count: int
    l1_misses: int
    l2_misses: int
    code: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """The address after its last instruction."""
        return self.address + sum(map(len, self.code))

    @property
    def instructions(self) -> int:
        """Instructions executed."""
        return self.count * len(self.code)


def read_counts(path: Path) -> list[Block]:
    """The blocks of one counted region; raises BenchError where the file is not the plugin's."""
    try:
        return parse_counts(path.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: no counts of the plugin ({error})") from error


def parse_counts(lines: Iterable[str]) -> list[Block]:
    """Blocks from lines of "address count l1-misses l2-misses instruction ...", by address.

    A block that qemu translated several times comes out once. Raises ValueError for any other text.
    """
    found: dict[tuple[int, tuple[bytes, ...]], Block] = {}
    for line in lines:
        address, count, l1, l2, *words = line.split()
        code = tuple(map(bytes.fromhex, words))
        block = Block(int(address, 16), int(count), int(l1), int(l2), code)
        key = (block.address, code)
        if (before := found.get(key)) is not None:
            block = _added(before, block)
        found[key] = block
    return sorted(found.values(), key=lambda block: (block.address, len(block.code)))


def _added(one: Block, other: Block) -> Block:
    return replace(
        one,
        count=one.count + other.count,
        l1_misses=one.l1_misses + other.l1_misses,
        l2_misses=one.l2_misses + other.l2_misses,
    )


def within(blocks: Iterable[Block], ranges: Sequence[Range]) -> list[Block]:
    """The blocks that start inside one of the address ranges."""
    return [block for block in blocks if any(low <= block.address < high for low, high in ranges)]


def joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks that always run together, as one: qemu ends a block at every page and after some 90 instructions.

    Two are one where the second starts at the first's end and both ran equally often. ``blocks`` are in order of their
    addresses.
    """
    starting: dict[tuple[int, int], list[int]] = {}
    for index, block in enumerate(blocks):
        starting.setdefault((block.address, block.count), []).append(index)
    result, taken = [], set()
    for index, block in enumerate(blocks):
        if index in taken:
            continue
        taken.add(index)
        while after := [i for i in starting.get((block.end, block.count), ()) if i not in taken]:
            taken.add(after[0])
            sums = _added(block, blocks[after[0]])
            block = replace(sums, count=block.count, code=block.code + blocks[after[0]].code)
        result.append(block)
    return result


def mapped_ranges(maps: str, names: Sequence[str]) -> list[Range]:
    """Address ranges of the files in a /proc/self/maps whose path contains one of ``names``."""
    ranges = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and any(name in fields[5] for name in names):
            low, _, high = fields[0].partition("-")
            ranges.append((int(low, 16), int(high, 16)))
    return ranges
