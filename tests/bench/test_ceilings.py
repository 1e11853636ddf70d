"""The probe compiles and counts; what it counts is the machine's affair."""

from __future__ import annotations

import pytest

from sepcompile.bench import ceilings
from sepcompile.bench.errors import BenchError


def test_probe_compiles_and_gives_rates_for_every_thread_count() -> None:
    probe = ceilings.Probe()
    assert probe.vector_bits in (128, 256, 512)
    assert probe.fma_gflops(1, 0.002) > 0 and probe.fma_gflops(2, 0.002) > 0
    found = ceilings.measure_bandwidth(probe, (1, 2), [("L1", 16 << 10)])
    assert [(b.level, b.threads) for b in found] == [("L1", 1), ("DRAM", 1), ("L1", 2), ("DRAM", 2)]
    assert all(b.read_gbs > 0 and b.copy_gbs > 0 for b in found)


def test_a_probe_that_does_not_compile_is_a_typed_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(ceilings, "SOURCE", broken)
    with pytest.raises(BenchError, match="did not compile"):
        ceilings.Probe()
