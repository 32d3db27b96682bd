"""A pair of ranks shared by all tests of this folder, as starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.pair import Pair


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()
