"""These tests need NVRTC, which compiles for GPUs, but neither a GPU nor a driver."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sepcompile.codegen import nvrtc
from sepcompile.runtime import cuda_driver
from tests.cuda.emulator import standin_driver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if nvrtc.available():
        return
    for item in items:
        if "tests/cuda/" in str(item.path).replace(os.sep, "/"):
            item.add_marker(pytest.mark.skip(reason="NVRTC is not installed (sepcompile[cuda])"))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[cuda_driver.Driver]:
    """The stand-in driver, as the machine's."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(standin_driver()))
    monkeypatch.setattr(cuda_driver, "_DRIVERS", {})
    yield cuda_driver.driver()
