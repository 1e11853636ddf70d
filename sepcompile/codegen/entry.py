"""The C entry point of one artifact: it runs a plan's steps over a batch, on one thread or on the pool."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sepcompile.codegen.data import render
from sepcompile.codegen.plan import RESIDUAL, Plan, Step
from sepcompile.errors import CompileError

ENTRY_ABI = 1
"""Version of the functions that the loader calls; the loader refuses any other."""

GRAIN_MACS = 100_000
"""Less work than this is not worth handing to another thread: 1 to 3 microseconds, about what a fork and join cost."""

_LINE = 64  # bytes of a cache line, and the alignment of every buffer in the arena
_SLOT = 128  # slots of two threads must not share a line, nor the pair of lines that x86 prefetches together
_MOST_TASKS = 2**30
# Headers of C, glibc, musl and newlib. The header of a layer of such a name would be found in place of theirs, which
# they include themselves.
_SYSTEM_HEADERS = (
    "aio aliases alloca ar argp argz assert byteswap complex cpio crypt ctype dirent dlfcn elf endian envz err errno "
    "error execinfo fcntl features fenv float fmtmsg fnmatch fpu_control fstab fts ftw gconv getopt glob grp gshadow "
    "iconv ieee754 ifaddrs inttypes iso646 langinfo lastlog libgen libintl limits link locale malloc math mcheck "
    "memory mntent monetary mqueue netdb newlib nl_types nss obstack paths poll printf process pthread pty pwd "
    "re_comp reent regex regexp resolv sched search semaphore setjmp sgtty shadow signal spawn stab stdalign stdarg "
    "stdatomic stdbit stdbool stdckdint stdcountof stddef stdint stdio stdio_ext stdlib stdnoreturn string strings "
    "stropts syscall sysexits syslog tar termio termios tgmath thread_db threads time ttyent uchar ucontext ulimit "
    "unistd utime utmp utmpx values wait wchar wctype wordexp"
)


def symbol_name(name: str) -> str:
    """``name`` as a C identifier and Python module name: other characters become ``_``; ASCII only, never empty.

    Names that start with a digit, and those of a C library's headers, get ``layer_`` before them.
    """
    text = re.sub(r"[^0-9A-Za-z_]", "_", name).strip("_") or "layer"
    return f"layer_{text}" if text[0].isdigit() or text.lower() in _SYSTEM_HEADERS.split() else text


def exported_symbols(name: str, residual: bool = False) -> tuple[str, ...]:
    """The functions that a library of ``name`` (a C identifier) exports, apart from those of the pool.

    ``residual``: the layer has a second input, which its run function takes too and is called after.
    """
    run = "run_residual" if residual else "run"
    return tuple(f"{name}_{suffix}" for suffix in ("abi", "layer_bytes", "arena_bytes", "init", run, "free"))


def pool_symbols(name: str) -> tuple[str, ...]:
    """The thread pool's functions in a library of ``name``."""
    return tuple(f"{name}_pool_{suffix}" for suffix in ("bytes", "init", "worker", "stop"))


def weight_order(weights: Sequence[str]) -> tuple[str, ...]:
    """The order of the weight table: by name, so that it depends on nothing else."""
    return tuple(sorted(weights))


def render_entry(plan: Plan, *, name: str, weights: Sequence[str], grain_macs: int = GRAIN_MACS) -> str:
    """C source of the entry point and the pool.

    ``name`` is a C identifier (``symbol_name``), ``weights`` the names that the plan's ``w:`` operands may use.
    Raises ``CompileError`` where the plan does not hold together.
    """
    if symbol_name(name) != name:
        raise CompileError(f"entry point: name {name!r} is not an identifier; {symbol_name(name)!r} would be")
    _check_plan(plan)
    offsets, intermediate_bytes = _place(plan.intermediates)
    scratch = max(step.scratch_bytes for step in plan.steps)
    table = {weight: index for index, weight in enumerate(weight_order(weights))}
    image_macs = sum(step.tasks * step.macs_per_task for step in plan.steps)
    return render(
        "entry.c.j2",
        name=name,
        abi=ENTRY_ABI,
        weight_count=len(table),
        x_bytes=plan.x_bytes,
        y_bytes=plan.y_bytes,
        residual=plan.residual,
        intermediate_bytes=intermediate_bytes,
        slot_bytes=_round_up(intermediate_bytes + scratch, _SLOT),
        kernels=sorted({(step.symbol, len(step.operands)) for step in plan.steps}),
        steps=[
            {
                "symbol": step.symbol,
                "tasks": step.tasks,
                "grain": _grain(step.macs_per_task, grain_macs),
                "operands": [_operand(operand, table, offsets, step) for operand in step.operands],
            }
            for step in plan.steps
        ],
        image_grain=_grain(image_macs, grain_macs),
    )


def _grain(macs: int, grain_macs: int) -> int:
    return min(max(1, -(-grain_macs // max(1, macs))), _MOST_TASKS)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _place(intermediates: Sequence[tuple[str, int]]) -> tuple[dict[str, int], int]:
    """Offsets of the intermediate buffers in a slot, and their bytes together."""
    offsets, at = {}, 0
    for buffer, size in intermediates:
        offsets[buffer] = at
        at += _round_up(size, _LINE)
    return offsets, at


def _operand(operand: str, table: dict[str, int], offsets: dict[str, int], step: Step) -> str:
    kind, _, what = operand.partition(":")
    if operand in ("x", "y", RESIDUAL):
        return operand
    if kind == "w" and what in table:
        return f"call->layer->weights[{table[what]}]"
    if kind == "t" and what in offsets:
        return f"buffers + {offsets[what]}"
    known = ["x", "y", RESIDUAL, *(f"w:{weight}" for weight in table), *(f"t:{buffer}" for buffer in offsets)]
    raise CompileError(f"plan: step {step.symbol!r} has operand {operand!r}; it may be one of {', '.join(known)}")


def _check_plan(plan: Plan) -> None:
    if not plan.steps:
        raise CompileError("plan: it has no steps; at least one is needed")
    names = [buffer for buffer, _ in plan.intermediates]
    if len(set(names)) != len(names):
        raise CompileError(f"plan: intermediates {names} name a buffer twice")
    sizes = {"x_bytes": plan.x_bytes, "y_bytes": plan.y_bytes, **dict(plan.intermediates)}
    for field, size in sizes.items():
        if size < 0:
            raise CompileError(f"plan: {field} is {size}; it must not be negative")
    for step in plan.steps:
        if not 1 <= step.tasks <= _MOST_TASKS:
            raise CompileError(f"plan: step {step.symbol!r} has {step.tasks} tasks; 1 to {_MOST_TASKS} are possible")
        if step.scratch_bytes < 0:
            raise CompileError(f"plan: step {step.symbol!r} has scratch_bytes {step.scratch_bytes}; 0 or more")
        if symbol_name(step.symbol) != step.symbol:
            raise CompileError(f"plan: step symbol {step.symbol!r} is not an identifier")
