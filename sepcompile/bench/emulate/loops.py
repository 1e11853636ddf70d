"""What counts say about a run: totals, and how near its multiply-add loops come to the core's peak."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sepcompile.bench.emulate import mca
from sepcompile.bench.emulate.counts import Block, joined

# Vector multiply-adds that start in a cycle, in LLVM's models.
PORTS = {"cortex-a72": 1, "neoverse-n1": 2, "sapphirerapids": 2}
MULTIPLY_ADD = re.compile(r"(fmla|fmls)\s+v|(vfma|vmla|vfms|vmls)\.f32\s+[qd]|vfn?m(add|sub)\d+ps\s")
# One factor is a lane of a register or a broadcast value: the sums of a pointwise tile. Else both are vectors.
BY_LANE = re.compile(r"\.s\[\d\]$|d\d+\[\d\]$|\{1to\d+\}|\tvbroadcastss|^vbroadcastss")
# In 32 bits LLVM spills vectors through an address in a register, and uses these instructions for nothing else.
STACK = re.compile(r"\[sp\b|\(%rsp|^v(ld|st)mia\b")
STACK_STORE = re.compile(r"vstmia\b|(st[rp]\s|vstr|vst1|vstm|push).*\[?sp\b|v?mov[a-z0-9]*\s.*%[a-z0-9]+, -?\w*\(%rsp")
BACK = re.compile(r"-(\d+)$")
# Loops that do less than this share of a kind's multiply-adds are edges.
EDGE = 0.02
KINDS = ("pointwise", "depthwise")


@dataclass(frozen=True)
class Loop:
    """The multiply-add blocks of one kind: how often in percent of peak they multiply and add, per model.

    ``stack_accesses``: loads and stores of the stack in them, in the block that has most. ``stack_stores``: the stores
    alone, sums that found no register; a load without one reads a constant that was put there before the loop,
    such as a weight of a long kernel. ``share``: their part of all instructions of the run.
    """

    kind: str
    peak_percent: dict[str, float]
    stack_accesses: int
    share: float
    stack_stores: int = 0


@dataclass(frozen=True)
class Figures:
    """One run of a layer: instructions, modelled cycles per model, cache misses, and its multiply-add loops."""

    instructions: int
    l1_misses: int
    l2_misses: int
    cycles: dict[str, float]
    loops: tuple[Loop, ...] = field(default=())


@dataclass(frozen=True)
class Modelled:
    """A block with its text, and its cycles per model and execution."""

    block: Block
    text: mca.Text
    cycles: dict[str, float]

    @property
    def repeats(self) -> bool:
        """Whether its last instruction is a branch to its first."""
        back = BACK.search(self.text[-1]) if self.text and mca.is_branch(self.text[-1]) else None
        before, last = sum(map(len, self.block.code[:-1])), len(self.block.code[-1]) if self.block.code else 0
        # From where a displacement counts: the branch (AArch64), two instructions on (A32), behind it (x86).
        return back is not None and int(back[1]) in (before, before + 8, before + last)

    @property
    def multiply_adds(self) -> int:
        """Vector multiply-adds of one execution."""
        return sum(MULTIPLY_ADD.match(line) is not None for line in self.text)

    @property
    def kind(self) -> str:
        """The stage that its multiply-adds belong to; empty without any."""
        if not self.multiply_adds:
            return ""
        lanes = sum(BY_LANE.search(line) is not None for line in self.text)
        return KINDS[0] if 2 * lanes >= self.multiply_adds or (lanes and "vbroadcastss" in str(self.text)) else KINDS[1]


def model_blocks(blocks: Sequence[Block], models: Sequence[str], arch: str) -> list[Modelled]:
    """Every block with its text and its modelled cycles. ``blocks`` are in order of their addresses."""
    whole = joined(blocks)
    texts = mca.disassemble([block.code for block in whole], arch)
    columns = {model: mca.block_cycles(texts, model, arch) for model in models}
    return [
        Modelled(block, text, {model: columns[model][index] for model in models})
        for index, (block, text) in enumerate(zip(whole, texts, strict=True))
    ]


def figures_of(blocks: Sequence[Block], models: Sequence[str], arch: str) -> Figures:
    """The figures of one counted region."""
    modelled = model_blocks(blocks, models, arch)
    instructions = sum(block.instructions for block in blocks)
    return Figures(
        instructions,
        sum(block.l1_misses for block in blocks),
        sum(block.l2_misses for block in blocks),
        {model: sum(m.cycles[model] * m.block.count for m in modelled) for model in models},
        tuple(loop for kind in KINDS if (loop := _loop(modelled, kind, models, instructions)) is not None),
    )


def _loop(modelled: Sequence[Modelled], kind: str, models: Sequence[str], instructions: int) -> Loop | None:
    own = [m for m in modelled if m.kind == kind]
    total = sum(m.multiply_adds * m.block.count for m in own)
    hot = [m for m in own if m.multiply_adds * m.block.count >= EDGE * total]
    if not hot:
        return None
    done = sum(m.multiply_adds * m.block.count for m in hot)
    percent = {
        model: 100 * done / (PORTS[model] * sum(m.cycles[model] * m.block.count for m in hot)) for model in models
    }
    # The way into a loop runs its first pass too, after storing what the loop reads from the stack.
    inner = [m for m in hot if m.repeats] or hot
    accesses = max(sum(STACK.search(line) is not None for line in m.text) for m in inner)
    stores = max(sum(STACK_STORE.match(line) is not None for line in m.text) for m in inner)
    return Loop(kind, percent, accesses, sum(m.block.instructions for m in hot) / max(1, instructions), stores)
