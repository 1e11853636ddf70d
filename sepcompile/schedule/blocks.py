"""How extents are cut: what the schedule choosers of all CPU families share."""

from __future__ import annotations

from sepcompile.compute.form import Form
from sepcompile.targets import Machine

# Kernels of this many columns and more read each input often enough to pay for a padded copy of it.
LONG_KERNEL = 8
# Columns of a block of a depthwise layer in one row: a vector of channels of them still fits L1, and more gain nothing.
MOST_COLUMNS = 512


def lanes_of(channels: int, machine: Machine) -> int:
    """The widest vector that the channels fill."""
    lanes = machine.float_lanes
    while lanes > channels:
        lanes //= 2
    return lanes


def repeats_lanes(form: Form, machine: Machine) -> bool:
    """Whether a vector of depthwise channels is one vector of inputs with its lanes repeated, no gather."""
    return lanes_of(form.depthwise_channels, machine) % form.depthwise.depth_multiplier == 0


def window(taps: int) -> int:
    """How many taps of a long kernel are unrolled: a divisor of the kernel near 11 where there is one."""
    divisors = [n for n in range(5, 16) if taps % n == 0]
    return min(divisors, key=lambda n: abs(n - 11)) if divisors else 8


def even_tile(extent: int, wanted: int) -> int:
    """A tile of at most ``wanted`` that covers ``extent`` in as few tiles with as little overlap as possible."""
    tiles = -(-extent // max(1, wanted))
    return -(-extent // tiles)


def column_tile(columns: int, most: int, staged: bool) -> int:
    """Output columns of a depthwise register tile: wide, and a divisor of the row where that costs little width.

    A tile that overlaps its neighbour starts at a minimum of two numbers, which hides from LLVM which bounds hold; a
    staged copy of the input has none to test.
    """

    def cost(width: int) -> float:
        overlap = 1.25 if columns % width and not staged else 1.0
        return -(-columns // width) * (width + 1.5) * overlap

    return min(range(1, min(most, columns) + 1), key=lambda width: (cost(width), -width))


def depthwise_block(form: Form, machine: Machine) -> tuple[int, int]:
    """(rows, columns) of a block of a depthwise layer."""
    if form.out_height == 1:
        # A block reads, and a staged one copies, its halo as well. Kernel 31 over 400 columns on two cores: blocks of
        # 200 instead of 50 take 7 % less time with one thread and 17 % with two.
        kernel, dilation = form.depthwise.kernel_size[1], form.depthwise.dilation_rate[1]
        share = min(-(-form.out_width // machine.cores), 8 * dilation * (kernel - 1))
        wanted = max(-(-form.out_width // (4 * machine.cores)), share)
        return 1, even_tile(form.out_width, max(32, min(wanted, MOST_COLUMNS)))
    # Many rows a block, since two blocks both read the rows at their border, but enough blocks to share; an even
    # number, for tiles of two rows, and a divisor where there is one.
    most = max(2, form.out_height // (2 * machine.cores))
    even = [rows for rows in range(2, most + 1, 2) if form.out_height % rows == 0]
    return min(form.out_height, max(even, default=most + most % 2)), form.out_width
