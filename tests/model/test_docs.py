"""docs/models.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sepcompile.frontend.model.blocks import _CHEAP
from tests.model import zoo

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    (table,) = re.findall(r"<!-- coverage -->\n(.*?)<!-- /coverage -->", PAGE, re.DOTALL)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


def test_cheap_activations_are_listed() -> None:
    for kind in _CHEAP - {"linear", "relu", "prelu", "threshold"}:
        assert kind in PAGE, kind


def test_block_counts() -> None:
    names = {"DS-CNN": "ds_cnn", "MobileNet": "mobilenet", "MobileNetV2": "mobilenet_v2", "Xception": "xception",
             "NASNetMobile": "nasnet_mobile"}  # fmt: skip
    for title, name in names.items():
        assert rows()[title][:2] == [str(zoo.BLOCKS[name])] * 2


@pytest.mark.slow
def test_coverage_table() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("model_coverage", ROOT / "benchmarks" / "model_coverage.py")
    assert spec is not None and spec.loader is not None
    coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coverage)
    assert set(rows()) == set(coverage.NETWORKS)
    for name, cells in rows().items():
        found = coverage.measure(name)
        name_left, share = next(iter(found["left"].items()))
        expected = [f"{found['separable']}", f"{found['compiled']}", f"{found['alone']:.1%}", f"{found['covered']:.1%}"]
        assert cells == [*expected, f"{name_left} {share:.1%}"], name
