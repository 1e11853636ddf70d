"""Statistics, JSON, table and page, on made-up numbers."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from sepcompile.bench import charts, html, machine, output, stats, table
from sepcompile.bench.ceilings import collect, levels
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.peers import OURS
from sepcompile.bench.report import Bandwidth, BenchReport, PeerStatus, Result, Round
from sepcompile.bench.timing import Timing, measure

LAYERS = (
    BenchLayer("conv", "SeparableConv2D", (1, 8, 8, 16), {"filters": 16, "kernel_size": 3, "padding": "same"}),
    BenchLayer("seq<1>", "DepthwiseConv1D", (1, 64, 16), {"kernel_size": 5}),
)


def timed(peer: str, layer: str, *times: tuple[str, float, float], **extra: object) -> Result:
    rounds = tuple(Round(0, i, s, Timing(best, med, 10, 1.0)) for i, (s, best, med) in enumerate(times))
    return stats.summarize_rounds(Result(layer, peer, 1, "ok", rounds=rounds, error=1e-7, **extra))  # type: ignore[arg-type]


@pytest.fixture
def report() -> BenchReport:
    results = (
        timed(OURS, "conv", ("artifact", 10.0, 11.0), ("artifact", 12.0, 13.0)),
        timed("litert", "conv", ("nhwc", 20.0, 24.0)),
        timed("openvino-f32", "conv", ("first", 15.0, 40.0), ("last", 18.0, 20.0)),
        timed("openvino-default", "conv", ("last", 5.0, 5.0), precision="bfloat16", competes=False),
        timed(OURS, "seq<1>", ("artifact", 4.0, 4.0)),
        timed("litert", "seq<1>", ("nhwc", 2.0, 2.0)),
        Result("seq<1>", "openvino-f32", 1, "wrong", reason="off by 1"),
        Result("seq<1>", "openvino-default", 1, "failed", reason="died"),
    )
    found = collect({1: [200.0, 220.0]}, (Bandwidth("L1", 1024, 1, 300.0, 250.0),), 512)
    rows = stats.make_rows(LAYERS, (1,), results, found.fma_gflops)
    peers = tuple(PeerStatus(n, 1, "ok", version="1") for n in (OURS, "litert", "openvino-f32", "openvino-default"))
    peers += (PeerStatus("ncnn", 1, "absent", "not installed: ncnn"),)
    machine_text = {"cpu": "a <cpu>", "cpus_usable": 2}
    return BenchReport(
        "2026-01-01T00:00:00+00:00", {"suite": "x"}, machine_text, found, LAYERS, peers, results, rows,
        stats.summarize(rows), ("openvino-f32 on seq<1>: wrong",),
    )  # fmt: skip


def test_minima_medians_and_the_fastest_peer(report: BenchReport) -> None:
    row = report.rows[0]
    assert (row.ours_min_us, row.ours_median_us) == (10.0, 12.0)
    # bfloat16 is faster and does not count; by medians the second set-up of OpenVINO is the one that counts.
    assert (row.best_peer, row.best_min_us) == ("openvino-f32", 15.0)
    assert (row.best_peer_median, row.best_median_us) == ("openvino-f32", 20.0)
    assert row.speedup_min == pytest.approx(1.5) and row.speedup_median == pytest.approx(20 / 12)
    assert row.gflops == pytest.approx(2e-3 * row.macs / 10)
    assert row.peak_fraction == pytest.approx(row.gflops / 220)


def test_geomeans_per_group_and_over_all(report: BenchReport) -> None:
    total = report.summaries[0]
    assert (total.group, total.rows, total.ahead) == ("all", 2, 1)
    assert total.geomean_min == pytest.approx((1.5 * 0.5) ** 0.5)
    # At the peak of 220 GFLOP/s a row would take 2e-3 * MACs / 220 microseconds.
    bounds = [row.best_min_us * 220 / (2e-3 * row.macs) for row in report.rows]
    assert total.geomean_at_peak == pytest.approx((bounds[0] * bounds[1]) ** 0.5)
    assert [s.group for s in report.summaries[1:]] == ["separable 2-D", "depthwise 1-D"]
    assert stats.geomean([]) is None and stats.geomean([None, 4.0, 1.0]) == pytest.approx(2.0)


def test_json_round_trips(report: BenchReport, tmp_path) -> None:
    path = tmp_path / "deep" / "r.json"
    output.write_json(report, path)
    again = output.read_json(path)
    assert output.to_json(again) == output.to_json(report)
    assert again.results[0].rounds[1].timing.best_us == 12.0
    path.write_text('{"format": 99}')
    with pytest.raises(BenchError, match="99"):
        output.read_json(path)


def test_table_shows_times_reasons_and_warnings(report: BenchReport) -> None:
    stream = io.StringIO()
    table.render_table(report, Console(file=stream, width=260))
    text = stream.getvalue()
    for part in (
        "10.0 (12.0)",
        "1.50 (1.67)",
        "WRONG",
        "failed",
        "not installed: ncnn",
        "warning: openvino-f32",
        "220",
    ):
        assert part in text


def test_page_is_self_contained_and_escaped(report: BenchReport, tmp_path) -> None:
    html.write_html(report, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    for part in ("separable 2-D", "depthwise 1-D", "roofline", "a &lt;cpu&gt;", "seq&lt;1&gt;", "not installed: ncnn"):
        assert part in page
    assert "<cpu>" not in page and "seq<1>" not in page
    assert not any(part in page for part in ("<script", "http://", "https://", "<link", "src="))


def test_charts_are_well_formed(report: BenchReport) -> None:
    bars = charts.bar_chart(report, report.rows, report.peer_names(1), "all & more")
    assert len(ElementTree.fromstring(bars).findall(".//rect")) == 6
    assert len(ElementTree.fromstring(charts.roofline(report, 1)).findall(".//circle")) == 2
    assert charts.roofline(report, 7) == ""


def test_measure_counts_calls_and_orders_its_numbers() -> None:
    calls = []
    found = measure(lambda: calls.append(1), budget_ms=0.5, warm_ms=0.1)
    assert 0 < found.best_us <= found.median_us and 0 < found.calls < len(calls)
    assert Timing.from_json(found.to_json()) == found


def test_machine_description_holds_what_a_reader_needs() -> None:
    found = machine.describe()
    assert found["cpu"] and found["cpus"] >= 1 and found["kernel"].startswith("Linux")
    assert all(size > 0 for _, size in machine.caches())
    assert [level for level, _ in levels([("L1", 32 << 10), ("L2", 1 << 20)])] == ["L1", "L2", "DRAM"]
