"""Charts as inline SVG: bars of time per layer, and the roofline. No library, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sepcompile.bench.peers import OURS
from sepcompile.bench.report import BenchReport, Result, Row

WIDTH, LABEL, BAR, GAP = 920, 130, 9, 10
COLOURS = ("#d1495b", "#30638e", "#8aa29e", "#edae49", "#6b4c9a", "#66a182", "#b7a57a", "#3d5a80", "#c08497", "#7d8597")


def colours(peers: Sequence[str]) -> dict[str, str]:
    """A colour per peer; ours always has the first."""
    others = [peer for peer in peers if peer != OURS]
    table = {OURS: COLOURS[0]}
    table.update({peer: COLOURS[1 + i % (len(COLOURS) - 1)] for i, peer in enumerate(others)})
    return table


def _text(x: float, y: float, text: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    return head + f"<title>{escape(title)}</title>" + "".join(parts) + "</svg>"


def bar_chart(report: BenchReport, rows: Sequence[Row], peers: Sequence[str], title: str) -> str:
    """Time relative to ours (or to the fastest where ours is missing); bars that run off the chart say their value."""
    palette, parts, y = colours(peers), [], 24.0
    limit, scale = 3.0, (WIDTH - LABEL - 90) / 3.0
    for tick in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        x = LABEL + tick * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="100%" class="{"one" if tick == 1 else "grid"}"/>')
        parts.append(_text(x, 12, f"{tick:g}x", 'class="tick" text-anchor="middle"'))
    for row in rows:
        results = {r.peer: r for r in report.results_of(row.layer, row.threads) if r.min_us is not None}
        base = row.ours_min_us or row.best_min_us
        if base is None:
            continue
        shown = [peer for peer in peers if peer in results]
        parts.append(_text(LABEL - 8, y + BAR * len(shown) / 2 + 4, row.layer, 'text-anchor="end"'))
        for peer in shown:
            parts.append(_bar(results[peer], base, y, palette[peer], limit, scale))
            y += BAR
        y += GAP
    return _svg(y + 4, parts, title)


def _bar(result: Result, base: float, y: float, colour: str, limit: float, scale: float) -> str:
    assert result.min_us is not None
    ratio = result.min_us / base
    width = min(ratio, limit) * scale
    label = f"{result.peer}: {result.min_us:,.1f} µs, {ratio:.2f}x"
    faded = "" if result.competes else ' fill-opacity="0.35"'
    bar = f'<rect x="{LABEL}" y="{y:.1f}" width="{width:.1f}" height="{BAR - 1}" fill="{colour}"{faded}>'
    text = _text(LABEL + width + 4, y + BAR - 2, f"{ratio:.2f}", 'class="value"') if ratio > limit else ""
    return f"{bar}<title>{escape(label)}</title></rect>{text}"


def roofline(report: BenchReport, threads: int) -> str:
    """GFLOP/s over flops per byte (least traffic), under the measured FMA peak and the memory levels."""
    peak = report.ceilings.fma_gflops.get(threads)
    rows = [row for row in report.rows if row.threads == threads and row.gflops]
    if not peak or not rows:
        return ""
    plot = _Plot(peak)
    parts = plot.axes()
    for item in report.ceilings.bandwidth:
        if item.threads == threads:
            parts.append(plot.roof(item.read_gbs, peak, item.level))
    parts += [plot.dot(row) for row in sorted(rows, key=lambda row: row.macs / row.bytes_moved)]
    return _svg(plot.height, parts, f"roofline, {threads} threads")


class _Plot:
    """A doubly logarithmic plot of the roofline."""

    left, right, top, height, bottom = 60, WIDTH - 20, 30, 420, 380
    x_range = (0.1, 400.0)

    def __init__(self, peak: float) -> None:
        self.y_range = (peak / 300, peak * 1.6)
        self._labels: list[tuple[float, float, float]] = []

    def label(self, x: float, y: float, text: str, extra: str, step: float) -> str:
        """A text at this place, or as many steps up or down as it takes to cover no other."""
        left, width = x - 3 * len(text) * ("middle" in extra), 5.5 * len(text)
        while any(abs(y - b) < abs(step) and left < a + w and a < left + width for a, b, w in self._labels):
            y += step
        self._labels.append((left, y, width))
        return _text(x, y, text, extra)

    def x(self, value: float) -> float:
        low, high = (math.log(v) for v in self.x_range)
        return self.left + (math.log(value) - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = (math.log(v) for v in self.y_range)
        clipped = min(max(value, self.y_range[0]), self.y_range[1])
        return self.bottom - (math.log(clipped) - low) / (high - low) * (self.bottom - self.top)

    def axes(self) -> list[str]:
        parts = [_text((self.left + self.right) / 2, 412, "flops per byte", 'class="tick" text-anchor="middle"')]
        for value in (0.1, 1, 10, 100):
            x = self.x(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}" class="grid"/>')
            parts.append(_text(x, 396, f"{value:g}", 'class="tick" text-anchor="middle"'))
        for value in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000):
            if self.y_range[0] <= value <= self.y_range[1]:
                y = self.y(value)
                parts.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
                parts.append(_text(self.left - 6, y + 4, f"{value:g}", 'class="tick" text-anchor="end"'))
        return parts

    def roof(self, gbs: float, peak: float, level: str) -> str:
        """One memory level's slope up to the FMA peak."""
        start, ridge = self.x_range[0], min(max(peak / gbs, self.x_range[0]), self.x_range[1])
        points = [(start, start * gbs), (ridge, min(ridge * gbs, peak)), (self.x_range[1], peak)]
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
        middle = 'class="tick" text-anchor="middle"'
        label = self.label(self.x(ridge), self.y(peak) - 6, f"{level} {gbs:.0f} GB/s", middle, -11)
        return f'<polyline points="{path}" class="roof"/>{label}'

    def dot(self, row: Row) -> str:
        assert row.gflops is not None
        x, y = self.x(min(max(2 * row.macs / row.bytes_moved, 0.1), 400.0)), self.y(row.gflops)
        share = f", {100 * row.peak_fraction:.0f}% of peak" if row.peak_fraction else ""
        title = f"{row.layer}: {row.gflops:.0f} GFLOP/s{share}"
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[0]}"><title>{escape(title)}</title></circle>'
        return shape + self.label(x + 6, y + 3, row.layer, 'class="dot"', 9)
