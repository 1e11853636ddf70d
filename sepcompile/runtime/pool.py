"""The thread pools of this process: one per number of threads, shared by all artifacts.

The pool itself is C (``templates/pool.c.j2``); this module owns its memory and its threads. Workers are ordinary daemon
threads of Python that enter the C function once and stay in it without the interpreter lock, spinning for some
microseconds after each job and then sleeping in the kernel.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any, Protocol

from .buffers import Buffer

POOL_ABI = 1
MOST_THREADS = 1024


class PoolCode(Protocol):
    """The pool's functions in some artifact's library."""

    library: ctypes.CDLL

    def pool_bytes(self) -> int: ...
    def pool_init(self, address: int, threads: int) -> None: ...
    def pool_worker(self, address: int, index: int) -> None: ...


class KeepsPool(Protocol):
    """What must let go of its pool in the child after a fork, since threads do not survive one."""

    def forget_pool(self) -> None: ...


_keepers: weakref.WeakSet[Any] = weakref.WeakSet()


def usable_cpus() -> int:
    """Logical CPUs that this process may use: its affinity, less where a container's quota allows less. At least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    return max(1, min(count, _quota() or count, MOST_THREADS))


def _quota() -> int | None:
    """The CPU quota of the control group in whole CPUs, rounded up; None without one."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return -(-int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _registry() -> Any:
    """What all copies of this module in the process share: the lock and the pools.

    Every artifact carries a copy of this runtime, and the installed package is one more. Had each its own pool, the
    workers of one layer, still spinning after its last job, would hold the cores that the next layer's workers need.
    ``sys.modules`` is the one place that they have in common; the name holds the version of the C struct.
    """
    name = f"_sepcompile_pools_{POOL_ABI}"
    fresh: Any = types.ModuleType(name)
    fresh.lock = threading.Lock()
    fresh.process = os.getpid()
    fresh.pools = {}
    fresh.kept = []
    registry: Any = sys.modules.setdefault(name, fresh)
    if registry.process != os.getpid():
        # After a fork: threads do not survive it, and another thread may have held the lock.
        registry.lock = threading.Lock()
        registry.pools = {}
        registry.process = os.getpid()
    return registry


def _let_go() -> None:
    for keeper in list(_keepers):
        keeper.forget_pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def on_fork(keeper: KeepsPool) -> None:
    """Have ``keeper.forget_pool()`` called in the child after a fork."""
    _keepers.add(keeper)


def pool_address(threads: int, code: PoolCode, keeper: KeepsPool) -> int:
    """The address of this process's pool for ``threads`` threads (2 or more), started when it does not exist.

    ``keeper.forget_pool()`` is called in the child after a fork.
    """
    on_fork(keeper)
    registry = _registry()
    with registry.lock:
        address = registry.pools.get(threads)
        if address is None:
            address = registry.pools[threads] = _start(registry, threads, code)
        return int(address)


def _start(registry: Any, threads: int, code: PoolCode) -> int:
    memory = Buffer(code.pool_bytes())
    # After a fork that Python does not see, the zeros tell the child's calls that this pool has no workers.
    memory.wipe_on_fork()
    registry.kept.append((memory, code.library))
    # Workers outlive the interpreter's shutdown, so that neither the memory they watch nor their code may ever go.
    for kept in (memory, memory.view):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    code.pool_init(memory.address, threads)
    for index in range(1, threads):
        worker = threading.Thread(
            target=code.pool_worker, args=(memory.address, index), name=f"sepcompile-{threads}-{index}", daemon=True
        )
        try:
            worker.start()
        except RuntimeError:
            break  # no more threads to be had; the pool works with those it has
    return memory.address
