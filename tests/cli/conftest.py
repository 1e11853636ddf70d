"""The command line as its users meet it: a process, its exit code and what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LAYER = {
    "class_name": "SeparableConv2D",
    "config": {"name": "conv1", "filters": 8, "kernel_size": 3, "padding": "same", "activation": "relu6"},
}
ENTRY = "from sepcompile.cli import main; main()"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """``cli("compile", "layer.json", ...)`` in a folder of its own that holds ``layer.json``."""
    (tmp_path / "layer.json").write_text(json.dumps(LAYER))

    def run(*arguments: object, stdin: str = "", env: dict[str, str] | None = None, **options: Any) -> Any:
        return subprocess.run(
            [sys.executable, "-c", ENTRY, *map(str, arguments)],
            input=stdin, cwd=tmp_path, text=True, capture_output=True, timeout=120, check=False,
            env={**os.environ, "COLUMNS": "100", **(env or {})}, **options,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def conv1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that no test changes: 6 x 5 x 4 to 6 x 5 x 8, any batch."""
    import sepcompile

    return sepcompile.compile(LAYER, (None, 6, 5, 4), output=tmp_path_factory.mktemp("artifact") / "conv1").path
