"""The C API: a variant as a static library with its weights inside, for programs without files, threads or a heap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sepcompile.codegen.data import render
from sepcompile.codegen.entry import symbol_name
from sepcompile.codegen.link import archive_objects, compile_c, join_objects
from sepcompile.codegen.objects import defined, frame_bytes, hide, section_bytes, undefined
from sepcompile.codegen.plan import RESIDUAL, Compiled, Plan, Step
from sepcompile.errors import CompileError, TargetError
from sepcompile.targets import Target

# Scratch of two threads must share no cache line, nor the pair of lines that x86 prefetches together.
_ALIGNMENT, _BARE_ALIGNMENT = 128, 8
_WEIGHT_ALIGNMENT = 64


@dataclass(frozen=True)
class StaticLibrary:
    """A static library (``archive``) and what it takes of a device, in bytes.

    ``code`` and ``constants`` are read-only, the weights among the latter; ``data`` is initialised memory. The arena
    of n threads is ``shared`` + n * ``thread`` bytes, aligned to ``alignment``. ``input`` and ``output`` are what one
    run reads and writes: the images of a fixed batch, else one. ``stack`` is the most that a run takes, None where that
    is not known: where there is an operating system, it does not matter.
    """

    archive: bytes
    code: int
    constants: int
    data: int
    shared: int
    thread: int
    alignment: int
    input: int
    output: int
    stack: int | None

    @property
    def flash(self) -> int:
        """Bytes of read-only memory."""
        return self.code + self.constants + self.data

    @property
    def arena(self) -> int:
        """Bytes of the arena of one thread."""
        return self.shared + self.thread

    @property
    def ram(self) -> int:
        """Bytes of memory that is written, apart from the stack: input, output, arena, variables."""
        return self.input + self.output + self.arena + self.data


def exported_functions(symbol: str) -> tuple[str, ...]:
    """The functions of a static library of the layer ``symbol``."""
    suffixes = ("init", "run", "free", "arena_bytes", "steps", "tasks", "run_tasks")
    return tuple(f"{symbol}_{suffix}" for suffix in suffixes)


def build_static(compiled: Compiled, *, name: str, target: Target, batch: int | None) -> StaticLibrary:
    """The static library of one variant of the layer ``name``; ``batch`` is the layer's, None where it is dynamic.

    Every symbol but the API's functions is hidden and starts with the layer's name, the helpers that LLVM asks for
    (memset, memcpy) included, so that none can meet one of the program's own.
    Raises ``CompileError``.
    """
    symbol = symbol_name(name)
    plan, alignment = compiled.plan, _BARE_ALIGNMENT if target.bare else _ALIGNMENT
    shared, offsets = _place(plan, alignment)
    thread = _round_up(max(step.scratch_bytes for step in plan.steps), alignment)
    at, blob = _weights(compiled.weights)
    flags = cpu_flags(target)
    values = {"name": symbol, "alignment": alignment, "shared_bytes": shared, "thread_bytes": thread}
    entry = compile_c(_entry(plan, values, at, offsets, batch), triple=target.triple, flags=flags)
    helpers = compile_c(render("memory.c.j2"), triple=target.triple, flags=flags)
    parts = [compiled.object_code, entry, helpers]
    stack = _stack(parts) if target.bare else None
    if blob:
        source = render("c_api/weights.c.j2", name=symbol, alignment=_WEIGHT_ALIGNMENT, bytes=len(blob))
        parts.append(compile_c(source, triple=target.triple, flags=flags, files={"weights.bin": blob}))
    joined = _closed(join_objects(parts, keep=exported_functions(symbol)), symbol)
    sizes, images = section_bytes(joined), 1 if batch is None else batch
    return StaticLibrary(
        archive=archive_objects({f"{symbol}.o": joined}),
        code=sizes.code,
        constants=sizes.constants,
        data=sizes.data + sizes.zeros,
        shared=shared,
        thread=thread,
        alignment=alignment,
        input=(plan.x_bytes + plan.residual * plan.y_bytes) * images,
        output=plan.y_bytes * images,
        stack=stack,
    )


def _stack(parts: Sequence[bytes]) -> int | None:
    """The most stack of a run: an entry point calls a kernel, that a helper (memmove), and that another (memcpy)."""
    frames = [frame_bytes(part) for part in (*parts, parts[-1])]
    return None if None in frames else sum(frame or 0 for frame in frames)


def cpu_flags(target: Target) -> tuple[str, ...]:
    """zig's flags for C that runs on ``target``; call frames are described where stack is counted.

    Raises ``TargetError`` for a microcontroller's target that does not name its core.
    """
    if not target.bare:
        return ()
    core = target.tvm.get("mcpu")
    if not isinstance(core, str):
        raise TargetError(f"target={target.name!r}: [tvm] mcpu={core!r}; expected the core, such as 'cortex-m4'")
    return (f"-mcpu={core.replace('-', '_')}", "-fno-pic", "-g1")


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _place(plan: Plan, alignment: int) -> tuple[int, dict[str, int]]:
    """Bytes of the intermediate buffers together, and the offset of each."""
    offsets, at = {}, 0
    for buffer, size in plan.intermediates:
        offsets[buffer] = at
        at += _round_up(size, alignment)
    return at, offsets


def _weights(weights: Mapping[str, np.ndarray]) -> tuple[dict[str, int], bytes]:
    """All weights as one block of bytes, and where each starts."""
    at: dict[str, int] = {}
    blob = bytearray()
    for name in sorted(weights):
        blob += bytes(-len(blob) % _WEIGHT_ALIGNMENT)
        at[name] = len(blob)
        array = weights[name]
        blob += array.astype(array.dtype.newbyteorder("<")).tobytes()
    return at, bytes(blob)


def _entry(
    plan: Plan, values: Mapping[str, object], weights: Mapping[str, int], offsets: Mapping[str, int], batch: int | None
) -> str:
    def operand(text: str, step: Step) -> str:
        kind, _, what = text.partition(":")
        if kind == "w" and what in weights:
            return f"{values['name']}_weights + {weights[what]}"
        if kind == "t" and what in offsets:
            return f"buffers + {offsets[what]}"
        if text in ("x", "y", RESIDUAL):
            return text
        raise CompileError(f"plan: step {step.symbol!r} has the unknown operand {text!r}")

    return render(
        "c_api/entry.c.j2",
        **values,
        x_bytes=plan.x_bytes,
        y_bytes=plan.y_bytes,
        weights=bool(weights),
        dynamic=batch is None,
        batch=batch,
        residual=plan.residual,
        kernels=sorted({(step.symbol, len(step.operands)) for step in plan.steps}),
        steps=[
            {
                "symbol": step.symbol,
                "tasks": step.tasks,
                "operands": [operand(text, step) for text in step.operands],
            }
            for step in plan.steps
        ],
    )


def _closed(joined: bytes, symbol: str) -> bytes:
    """The object with nothing open to the outside but the API, and in need of nothing."""
    if missing := undefined(joined):
        raise CompileError(f"{symbol}: its static library would need {', '.join(missing)} from elsewhere")
    api = exported_functions(symbol)
    prefix = f"{symbol}_"
    inner = [name for name in defined(joined) if name not in api]
    return hide(joined, {name: name if name.startswith(prefix) else prefix + name for name in inner})
