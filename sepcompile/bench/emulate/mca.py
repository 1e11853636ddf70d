"""Disassembly and modelled cycles of blocks, by llvm-mc and llvm-mca.

A block's cycles are those of one of many repetitions of it, every load a hit in L1: what a loop's body takes, and less
than what straight code takes. They are a model's and are compared with other modelled cycles only.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence

from sepcompile.bench.emulate.tools import llvm
from sepcompile.bench.errors import BenchError

TRIPLES = {"aarch64": "aarch64-linux-gnu", "armv7": "armv7a-linux-gnueabihf", "x86_64": "x86_64-linux-gnu"}
ATTRIBUTES = {
    "aarch64": "+fp-armv8,+neon,+crc,+lse,+rdm,+fullfp16,+dotprod,+rcpc",
    "armv7": "+neon,+vfp4,+hwdiv,+hwdiv-arm",
    "x86_64": "",
}
REPETITIONS = 100
# Branches end a block and cost little in a loop; llvm-mca refuses calls and returns.
_CONDITION = "(eq|ne|[ch]s|cc|lo|mi|pl|v[sc]|hi|ls|[gl][et]|al)"
_ARM, _X86 = rf"(b|bl|bx|blx)(\.?{_CONDITION})?|br|blr|cbn?z|tbn?z|ret", "j[a-z]+|call[a-z]*|ret[a-z]"
BRANCH = re.compile(f"({_ARM}|{_X86})$")
INVALID = re.compile(r"<stdin>:(\d+):\d+: warning: invalid instruction encoding")

Code = tuple[bytes, ...]
Text = tuple[str, ...]


def disassemble(code: Sequence[Code], arch: str) -> list[Text]:
    """Each block as assembly text; an instruction that LLVM does not know is an empty string."""
    flat = [instruction for block in code for instruction in block]
    source = "".join(" ".join(f"0x{byte:02x}" for byte in instruction) + "\n" for instruction in flat)
    command = [llvm("llvm-mc"), "--disassemble", f"-triple={TRIPLES[arch]}", f"-mattr={ATTRIBUTES[arch]}"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    found = iter([line.strip() for line in done.stdout.splitlines() if re.match(r"\t[^.\s]", line)])
    unknown = {int(line) for line in INVALID.findall(done.stderr)}
    lines = ["" if number in unknown else next(found, "") for number in range(1, len(flat) + 1)]
    if done.returncode or next(found, None) is not None:
        raise BenchError(f"llvm-mc disassembled {len(flat)} instructions into another number: {done.stderr[-300:]}")
    texts, start = [], 0
    for block in code:
        texts.append(tuple(lines[start : start + len(block)]))
        start += len(block)
    return texts


def is_branch(line: str) -> bool:
    """Whether a line of assembly is a branch, a call or a return."""
    return bool(line) and BRANCH.match(line.split()[0]) is not None


def block_cycles(blocks: Sequence[Text], cpu: str, arch: str) -> list[float]:
    """Modelled cycles of one execution of each block on llvm-mca's ``cpu``; without its branches, at least 1."""
    bodies = [tuple(line for line in block if line and not is_branch(line)) for block in blocks]
    distinct = [body for body in dict.fromkeys(bodies) if body]
    regions = [
        f"# LLVM-MCA-BEGIN r{index}\n" + "\n".join(body) + f"\n# LLVM-MCA-END r{index}\n"
        for index, body in enumerate(distinct)
    ]
    found = _run("".join(regions), cpu, arch) if distinct else {}
    cycles = {body: found.get(f"r{index}") for index, body in enumerate(distinct)}
    # A block that consists of what the model does not know counts one cycle per instruction.
    return [max(1.0, found_cycles if (found_cycles := cycles.get(body)) else len(body)) for body in bodies]


def _run(source: str, cpu: str, arch: str) -> dict[str, float]:
    command = [
        llvm("llvm-mca"), f"-mtriple={TRIPLES[arch]}", f"-mcpu={cpu}", f"-mattr={ATTRIBUTES[arch]}",
        f"-iterations={REPETITIONS}", "-skip-unsupported-instructions=any", "-all-views=false", "-summary-view",
        "-json",
    ]  # fmt: skip
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    try:
        regions = json.loads(done.stdout)["CodeRegions"]
        return {region["Name"]: region["SummaryView"]["TotalCycles"] / REPETITIONS for region in regions}
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"llvm-mca gave no cycles for {cpu}: {done.stderr.strip()[-300:]}") from error
