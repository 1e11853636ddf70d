"""Artifacts without TVM: hand-written C kernels stand in for its object code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepcompile.codegen.artifact import LinkedVariant, link_variant, write_artifact
from sepcompile.codegen.link import compile_c
from sepcompile.codegen.plan import Compiled, Plan, Step
from sepcompile.ir.stages import TensorSpec
from sepcompile.runtime import cpu
from sepcompile.runtime.results import SelfTest

TRIPLES = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "armv7": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}
# y[i] = x[i] * scale + shift, a row per task; "spread" needs all of the step before it: y[i] = t[last - i] + shift.
# Each kernel also leaves a mark in its scratch and reads it back, so that threads sharing scratch give wrong results.
SOURCE = """
#define ROWS %(rows)d
#define COLUMNS %(columns)d
static float kept(unsigned char *scratch, float value) {
    volatile float *own = (volatile float *)scratch;
    *own = value;
    return *own;
}
void affine(const float *x, const float *scale, const float *shift, float *y, unsigned char *scratch, int begin,
            int end) {
    for (int i = begin; i < end; i++)
        for (int j = 0; j < COLUMNS; j++) y[i * COLUMNS + j] = kept(scratch, x[i * COLUMNS + j] * scale[j]) + shift[j];
}
void scaled(const float *x, const float *scale, float *t, unsigned char *scratch, int begin, int end) {
    for (int i = begin; i < end; i++)
        for (int j = 0; j < COLUMNS; j++) t[i * COLUMNS + j] = kept(scratch, x[i * COLUMNS + j] * scale[j]);
}
void spread(const float *t, const float *shift, float *y, unsigned char *scratch, int begin, int end) {
    for (int i = begin; i < end; i++)
        for (int j = 0; j < COLUMNS; j++)
            y[i * COLUMNS + j] = kept(scratch, t[(ROWS - 1 - i) * COLUMNS + j]) + shift[j];
}
%(extra)s
"""


@dataclass(frozen=True)
class Sample:
    """A small layer: ``steps`` is 1 or 2; ``macs`` per task decides what is handed to other threads."""

    rows: int = 12
    columns: int = 8
    steps: int = 1
    macs: int = 100_000
    extra: str = ""
    batch: int | None = None

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec((self.batch, self.rows, self.columns), "float32")

    def weights(self) -> dict[str, np.ndarray]:
        values = np.random.default_rng(7).standard_normal((2, self.columns)).astype(np.float32)
        return {"scale": values[0], "shift": values[1]}

    def expected(self, x: np.ndarray) -> np.ndarray:
        """In float32, operation by operation as the kernels do."""
        weights = self.weights()
        product = (x.astype(np.float32) * weights["scale"]).astype(np.float32)
        return (product if self.steps == 1 else product[:, ::-1]) + weights["shift"]

    def input(self, batch: int = 1) -> np.ndarray:
        shape = (batch, self.rows, self.columns)
        return np.random.default_rng(batch).standard_normal(shape).astype(np.float32)

    def plan(self) -> Plan:
        nbytes = 4 * self.rows * self.columns
        if self.steps == 1:
            steps = (Step("affine", ("x", "w:scale", "w:shift", "y"), self.rows, 100, self.macs),)
            return Plan(steps, (), nbytes, nbytes)
        first = Step("scaled", ("x", "w:scale", "t:middle"), self.rows, 64, self.macs)
        second = Step("spread", ("t:middle", "w:shift", "y"), self.rows, 8, self.macs)
        return Plan((first, second), (("middle", nbytes),), nbytes, nbytes)


@cache
def _object(rows: int, columns: int, extra: str, arch: str) -> bytes:
    source = SOURCE % {"rows": rows, "columns": columns, "extra": extra}
    return compile_c(source, triple=TRIPLES[arch], flags=("-ffp-contract=off",))


@cache
def linked(sample: Sample, target: str, arch: str, requires: tuple[str, ...], name: str) -> LinkedVariant:
    compiled = Compiled(
        target=target,
        plan=sample.plan(),
        object_code=_object(sample.rows, sample.columns, sample.extra, arch),
        weights=sample.weights(),
        schedule={"rows": 1},
        schedule_source="test",
        tir="",
        assembly="",
    )
    return link_variant(compiled, name=name, family="test", arch=arch, triple=TRIPLES[arch], requires=requires)


def selftest(x: np.ndarray, expected: np.ndarray) -> SelfTest:
    """A self-test of every output element."""
    positions, tolerance = np.arange(expected.size), np.full(expected.size, 1e-6)
    return SelfTest(x.reshape(-1), x.shape, positions, expected.reshape(-1).astype(float), tolerance)


def write(path: Path, sample: Sample | None = None, name: str = "conv1", **changes: Any) -> Path:
    """Writes the artifact of ``sample`` for this machine; ``changes`` replace arguments of ``write_artifact``."""
    sample = sample or Sample()
    x = sample.input(1 if sample.batch is None else sample.batch)
    arguments: dict[str, Any] = {
        "layer_info": {"class_name": "SeparableConv1D", "config": {"filters": 8}},
        "ir_text": "program",
        "input": sample.spec,
        "output": sample.spec,
        "variants": [linked(sample, "here", cpu.machine(), (), name)],
        "weights_drawn": False,
        "selftest": selftest(x, sample.expected(x)),
        "tool_versions": {"zig": "test"},
    }
    return write_artifact(path, name=name, **{**arguments, **changes})


@pytest.fixture(scope="session")
def samples() -> type[Sample]:
    return Sample


@pytest.fixture(scope="session")
def variant() -> Callable[..., LinkedVariant]:
    """``variant(sample, target, arch=..., requires=..., name=...)``: linked, from a cache."""

    def make(
        sample: Sample,
        target: str = "here",
        arch: str | None = None,
        requires: tuple[str, ...] = (),
        name: str = "conv1",
    ) -> LinkedVariant:
        return replace(linked(sample, target, arch or cpu.machine(), requires, name))

    return make


@pytest.fixture(scope="session")
def write_sample() -> Callable[..., Path]:
    return write


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that no test changes."""
    return write(tmp_path_factory.mktemp("artifact") / "conv1")
