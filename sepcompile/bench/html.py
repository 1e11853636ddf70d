"""Reports as one HTML file each: no script, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sepcompile.bench import charts, curves
from sepcompile.bench.errors import BenchError
from sepcompile.bench.report import BenchReport
from sepcompile.bench.tuned import LayerTuning

TEMPLATE, TUNING_TEMPLATE = "bench_report.html.j2", "report.html.j2"


def _templates() -> Path:
    """``templates/`` of the repository, or its copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_data" / "templates", package.parent / "templates"):
        if (folder / TEMPLATE).exists():
            return folder
    raise BenchError(f"{TEMPLATE} is missing from this installation")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def render_html(report: BenchReport) -> str:
    """The page of a race as text."""
    return _render(TEMPLATE, _context(report))


def render_report(report: BenchReport, tuned: Sequence[LayerTuning]) -> str:
    """The page about our own layers as text: rooflines, searches, knobs."""
    items = []
    for item in tuned:
        svg = "" if item.curve is None else curves.tuning_curve(item.curve, f"search for {item.layer}")
        items.append({**vars(item), "svg": svg})
    searched = sum(item.curve is not None for item in tuned)
    return _render(TUNING_TEMPLATE, {**_context(report), "tuned": items, "searched": searched})


def _render(template: str, context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_templates()), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    return environment.get_template(template).render(context)


def _context(report: BenchReport) -> Mapping[str, Any]:
    sections = []
    for threads in dict.fromkeys(row.threads for row in report.rows):
        rows = [row for row in report.rows if row.threads == threads]
        peers = report.peer_names(threads)
        groups = [
            {"name": group, "svg": charts.bar_chart(report, [r for r in rows if r.group == group], peers, group)}
            for group in dict.fromkeys(row.group for row in rows)
        ]
        results = {row.layer: {r.peer: r for r in report.results_of(row.layer, threads)} for row in rows}
        sections.append({
            "threads": threads, "rows": rows, "peers": peers, "groups": groups, "results": results,
            "palette": charts.colours(peers), "roofline": charts.roofline(report, threads),
            "summaries": [s for s in report.summaries if s.threads == threads],
        })  # fmt: skip
    machine = {key: value if isinstance(value, str) else json.dumps(value) for key, value in report.machine.items()}
    return {"report": report, "sections": sections, "machine": machine, "options": json.dumps(dict(report.options))}


def write_html(report: BenchReport, path: Path | str) -> None:
    """Write the page of a race, self-contained."""
    _write(render_html(report), path)


def write_report(report: BenchReport, tuned: Sequence[LayerTuning], path: Path | str) -> None:
    """Write the page about our own layers, self-contained."""
    _write(render_report(report, tuned), path)


def _write(text: str, path: Path | str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
