"""Races compiled layers against other libraries on the same machine, weights and data.

Nothing is imported here: a peer's process, in a Python that may have only NumPy, passes through this module.
:mod:`sepcompile.bench.main` holds ``run`` and ``BenchOptions``, :mod:`sepcompile.bench.report` what comes out.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BenchError": "errors",
    "BenchLayer": "layers",
    "BenchOptions": "options",
    "BenchReport": "report",
    "check": "main",
    "describe_peers": "main",
    "read_json": "output",
    "render_table": "table",
    "run": "main",
    "write_html": "html",
    "write_json": "output",
    "write_report": "html",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
