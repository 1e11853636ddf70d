"""`sepcompile bench --report`: the course of a search from the journal, and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sepcompile.bench import curves
from sepcompile.tuning.curve import Curve, read_curve
from sepcompile.tuning.database import Question
from sepcompile.tuning.runner import Measurement

DEFAULT, GOOD, BETTER, BAD = ({"rows": rows, "order": "pixel"} for rows in (4, 2, 8, 1))


def outcome(ratio: float) -> Measurement:
    return Measurement((ratio * 1e-4,) * 8, (1e-4,) * 8)


@pytest.fixture
def outcomes() -> dict[str, Measurement]:
    """Two improvements, the second found against the first; a failure; a call with more threads."""
    asked = [
        (DEFAULT, DEFAULT, 1, "baseline", outcome(1.0)),
        (GOOD, DEFAULT, 1, "search", outcome(0.9)),
        (BAD, DEFAULT, 1, "search", Measurement.failed("crash", "SIGSEGV <here>")),
        (GOOD, DEFAULT, 1, "confirm", outcome(0.92)),
        (BETTER, GOOD, 1, "search", outcome(0.5)),
        (BETTER, GOOD, 1, "confirm", outcome(0.75)),
        (BETTER, DEFAULT, 1, "final", outcome(0.69)),
        (BETTER, DEFAULT, 2, "final", outcome(0.8)),
    ]
    return {Question(mine, other, threads, why).text: what for mine, other, threads, why, what in asked}


@pytest.fixture
def curve(outcomes: dict[str, Measurement]) -> Curve:
    found = read_curve(outcomes)
    assert found is not None
    return found


def test_ratios_are_to_the_default(curve: Curve) -> None:
    assert curve.default == DEFAULT
    assert [dict(point.record) for point in curve.points] == [GOOD, BAD, BETTER]
    assert [point.ratio for point in curve.points] == [pytest.approx(0.92), None, pytest.approx(0.92 * 0.75)]
    assert [point.best for point in curve.points] == [pytest.approx(b) for b in (0.92, 0.92, 0.69)]
    assert "SIGSEGV" in curve.points[1].failure


def test_no_search_is_no_curve(outcomes: dict[str, Measurement]) -> None:
    assert read_curve({}) is None
    assert read_curve(outcomes, threads=2) is None
    assert read_curve(dict(list(outcomes.items())[:1])) is None


def test_a_curve_is_well_formed(curve: Curve) -> None:
    svg = curves.tuning_curve(curve, "search for <a> & b")
    root = ElementTree.fromstring(svg)
    assert len(root.findall(".//circle")) == 2 and len(root.findall(".//path")) == 1
    titles = [element.text or "" for element in root.iter("title")]
    assert "search for <a> & b" in titles and "3: 0.690; rows=8" in titles
    assert any("SIGSEGV <here>" in title and "rows=1" in title for title in titles)


class Page(HTMLParser):
    """Collects tags and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_tuned_layer_on_the_page(tmp_path: Path) -> None:
    """As a user does it: tune, then bench, with a data folder of their own."""
    config = {"filters": 8, "kernel_size": 3, "padding": "same"}
    row = {"name": "small", "class_name": "SeparableConv2D", "input_shape": [1, 12, 12, 8], "config": config}
    other = {**row, "name": "other", "config": {**config, "filters": 16}}
    (tmp_path / "suite.json").write_text(json.dumps({"layers": [row, other]}))
    (tmp_path / "layer.json").write_text(
        json.dumps({"class_name": "SeparableConv2D", "config": {"name": "small", **config}})
    )
    page = tmp_path / "out" / "report.html"
    run(tmp_path, "tune", "layer.json", "--input-shape", "1,12,12,8", "--trials", "4")
    run(tmp_path, "bench", "--suite", "suite.json", "--rounds", "1", "--peer", "ncnn", "--report", str(page))
    text = page.read_text()
    found = Page(text)
    assert "script" not in found.tags and "link" not in found.tags and not found.references
    assert text.count("<h3>") == 2 and "Not tuned here" in text and "2 layers, 1 of them with a search" in text
    drawings = [part.partition("</svg>")[0] + "</svg>" for part in text.split("<svg")[1:]]
    searches = [svg for svg in drawings if 'aria-label="search for small"' in svg]
    assert len(searches) == 1
    root = ElementTree.fromstring("<svg" + searches[0])
    assert len(root.findall(".//circle")) + len(root.findall(".//path")) == 4
    rooflines = [svg for svg in drawings if "roofline" in svg]
    assert len(rooflines) == 1 and ">small<" in rooflines[0] and ">other<" in rooflines[0]
    assert "<dt>tile_pixels</dt>" in text


def run(folder: Path, *arguments: str) -> None:
    code = "import sys; from sepcompile.cli import main; main(sys.argv[1:])"
    data = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    environment = {**os.environ, **data, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
