"""A small artifact for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuning import misdeeds


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return misdeeds.compile_good(tmp_path_factory.mktemp("good") / "sep")
