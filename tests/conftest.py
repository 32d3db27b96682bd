"""What every test gets: the same random numbers, and GPU tests only where there is a GPU."""

from __future__ import annotations

import importlib
import itertools
import os
from types import ModuleType
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the hub

pytest_plugins = ["mmcomponents.testing.pytest_plugin", "pytester"]  # the first one has the fixture two_ranks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # First what takes longest: one of two processes would be idle while the other one runs it at the end.
    items.sort(key=lambda item: item.path.name != "test_recipes.py")
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that constructs more modules than checks of arguments do: sizes out of range must not be built."""
    built, construct = itertools.count(), torch.nn.Module.__init__

    def counted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if next(built) == 20_000:
            pytest.fail("20,000 modules are constructed")
        construct(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__init__", counted)


@pytest.fixture(scope="session")
def ladder() -> ModuleType:
    """The driver of the ladder, which is no module of the package."""
    return importlib.import_module("run_ladder")
