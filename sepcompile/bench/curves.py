"""The course of a search as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sepcompile.bench.charts import COLOURS
from sepcompile.tuning.curve import Curve, CurvePoint

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 44, WIDTH - 12, 24, HEIGHT - 26
WORST = 1.5  # slower candidates lie at the upper edge


def tuning_curve(curve: Curve, title: str) -> str:
    """Each proposal's time over the default's, the best so far as a line; failures are crosses at the upper edge."""
    low = min([1.0, *(point.ratio for point in curve.points if point.ratio is not None)])
    plot = _Plot(len(curve.points), low - 0.03)
    parts = plot.axes()
    parts.append(plot.best(curve.points))
    parts += [plot.point(number, point, curve.default) for number, point in enumerate(curve.points, 1)]
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"


class _Plot:
    def __init__(self, count: int, low: float) -> None:
        self._count, self._low = max(count, 2), low

    def x(self, number: float) -> float:
        return LEFT + (number - 1) / (self._count - 1) * (RIGHT - LEFT)

    def y(self, ratio: float) -> float:
        return BOTTOM - (min(ratio, WORST) - self._low) / (WORST - self._low) * (BOTTOM - TOP)

    def axes(self) -> list[str]:
        parts = []
        for percent in range(0, round(WORST * 100) + 1, 10):
            ratio = percent / 100
            if ratio >= self._low:
                y, kind = self.y(ratio), "one" if percent == 100 else "grid"
                parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>')
                parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{ratio:.1f}</text>')
        for number in sorted({1, self._count // 4, self._count // 2, 3 * self._count // 4, self._count} - {0}):
            text = f'<text x="{self.x(number):.1f}" y="{HEIGHT - 10}" class="tick" text-anchor="middle">{number}</text>'
            parts.append(text)
        return parts

    def best(self, points: tuple[CurvePoint, ...]) -> str:
        """Steps from 1, the default."""
        places, last = [f"{self.x(1):.1f},{self.y(1.0):.1f}"], 1.0
        for number, point in enumerate(points, 1):
            x = self.x(number)
            places += [f"{x:.1f},{self.y(last):.1f}", f"{x:.1f},{self.y(point.best):.1f}"]
            last = point.best
        return f'<polyline points="{" ".join(places)}" class="roof"/>'

    def point(self, number: int, point: CurvePoint, default: Mapping[str, object]) -> str:
        """A dot, or a cross for a failure, that says on hovering what differs from the default."""
        differs = ", ".join(f"{key}={value}" for key, value in point.record.items() if default.get(key) != value)
        x = self.x(number)
        if point.ratio is None:
            title = f"{number}: {point.failure}; {differs}"
            cross = f'<path d="M{x - 3:.1f},{TOP - 3} l6,6 m0,-6 l-6,6" class="failed">'
            return f"{cross}<title>{escape(title)}</title></path>"
        title = f"{number}: {point.ratio:.3f}; {differs}"
        faded = ' fill-opacity="0.35"' if point.ratio > WORST else ""
        dot = f'<circle cx="{x:.1f}" cy="{self.y(point.ratio):.1f}" r="3" fill="{COLOURS[0]}"{faded}>'
        return f"{dot}<title>{escape(title)}</title></circle>"
