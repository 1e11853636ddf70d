"""The schedule of row-wise activations."""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule as Transform
from tvm.tirx import IterVar

from sepcompile.compute.kernel import KernelIR
from sepcompile.compute.rowwise import Rows


def schedule_rowwise(kernel: KernelIR, rows: Rows) -> Any:
    """Scheduled PrimFunc of a row-wise kernel: every stage inside its task, vectors innermost."""
    s = Transform(kernel.func)
    output = s.get_sblock("O")
    loops = s.get_loops(output)
    task = loops[0] if rows.along else s.fuse(*loops[:2])
    s.vectorize(s.get_loops(output)[-1])
    stages = [s.get_sblock(name) for name in kernel.stages]
    # Consumers first: a stage can only move under a loop that all of its consumers are already under.
    for stage in reversed(stages):
        s.compute_at(stage, task, preserve_unit_loops=True)
    s.parallel(task)
    for stage in stages:
        _schedule_stage(s, stage, rows)
    return s.mod["main"]


def _schedule_stage(s: Any, stage: Any, rows: Rows) -> None:
    """Vectorize a stage's lanes and take its initialisation out of its reduction, if it has one."""
    variables = s.get(stage).iter_vars
    reduced = sum(int(var.iter_type) == IterVar.CommReduce for var in variables)
    own = s.get_loops(stage)[-len(variables) :]
    spatial, reductions = own[: len(own) - reduced], own[len(own) - reduced :]
    # Along the row, a stage over (outer,) alone holds one number per row: it has no lanes.
    lane = None if rows.along and len(spatial) == 1 else spatial[-1]
    if lane is not None:
        s.reorder(*reductions, lane)
        s.vectorize(lane)
    if reductions:
        init = s.decompose_reduction(stage, reductions[0])
        if lane is not None:
            s.vectorize(s.get_loops(init)[-1])
