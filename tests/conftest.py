"""What every test gets: the same random numbers, and GPU tests only where there is a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from contracts.pair import Pair


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two ranks that all tests share, as starting them takes seconds."""
    from contracts.pair import Pair

    made = Pair()
    yield made
    made.close()


@pytest.fixture(scope="session")
def ladder() -> ModuleType:
    """The driver of the ladder, which is no module of the package."""
    return importlib.import_module("run_ladder")
