"""The report as a JSON file, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.report import (
    FORMAT,
    Bandwidth,
    BenchReport,
    Ceilings,
    PeerStatus,
    Result,
    Round,
    Row,
    Summary,
)
from sepcompile.bench.timing import Timing

# Digits of a number in the file: times carry no more than this, and files in version control stay small.
DIGITS = 6


def _plain(value: Any) -> Any:
    """Dataclass dicts as JSON has them: rounded floats, no infinities, string keys."""
    if isinstance(value, float):
        return None if not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def to_json(report: BenchReport) -> dict[str, Any]:
    """The report as plain data. A round is ``[launch, round, set-up, best_us, median_us, calls, load]``."""
    results = []
    for result in report.results:
        packed = [
            [r.launch, r.index, r.setup, r.timing.best_us, r.timing.median_us, r.timing.calls, r.timing.load]
            for r in result.rounds
        ]
        results.append({**asdict(result), "rounds": packed})
    document = {
        "format": FORMAT,
        "created": report.created,
        "options": report.options,
        "machine": report.machine,
        "ceilings": asdict(report.ceilings),
        "layers": [layer.to_json() for layer in report.layers],
        "peers": [asdict(peer) for peer in report.peers],
        "results": results,
        "rows": [asdict(row) for row in report.rows],
        "summaries": [asdict(summary) for summary in report.summaries],
        "warnings": list(report.warnings),
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def write_json(report: BenchReport, path: Path | str) -> None:
    """One line per list of numbers: readable in a diff."""
    text = dump(to_json(report))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text + "\n", encoding="utf-8")


def dump(value: Any, depth: int = 0) -> str:
    """JSON with an object or list on one line where it is short."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= 118 or not isinstance(value, (dict, list)) or not value:
        return flat
    inner, outer = " " * (depth + 1), " " * depth
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {dump(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{outer}}}"
    return "[\n" + ",\n".join(inner + dump(item, depth + 1) for item in value) + f"\n{outer}]"


def read_json(path: Path | str) -> BenchReport:
    """A report from its file, for a page or a comparison later."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return _from_json(document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is not a benchmark report of format {FORMAT} ({error})") from error


def _from_json(document: Mapping[str, Any]) -> BenchReport:
    if document["format"] != FORMAT:
        raise BenchError(f"the report's format is {document['format']}; this version reads {FORMAT}")
    raw = document["ceilings"]
    found = Ceilings(
        {int(n): float(v) for n, v in raw["fma_gflops"].items()},
        {int(n): tuple(v) for n, v in raw["fma_samples"].items()},
        tuple(Bandwidth(**item) for item in raw["bandwidth"]),
        int(raw["vector_bits"]),
        str(raw["reason"]),
    )
    return BenchReport(
        document["created"],
        document["options"],
        document["machine"],
        found,
        tuple(BenchLayer.from_json(row) for row in document["layers"]),
        tuple(PeerStatus(**item) for item in document["peers"]),
        tuple(_result(item) for item in document["results"]),
        tuple(Row(**item) for item in document["rows"]),
        tuple(Summary(**item) for item in document["summaries"]),
        tuple(document["warnings"]),
    )


def _result(item: Mapping[str, Any]) -> Result:
    rounds = tuple(Round(r[0], r[1], r[2], Timing(*r[3:])) for r in item["rounds"])
    return Result(**{**item, "rounds": rounds})
