"""The contract tests over the parts of the visual side; `test_contracts.py` has the others.

Two files, since a file is run by one process.
"""

from __future__ import annotations

import pytest

from contracts.chosen_cases import cases, check
from mmcomponents.testing import Ranks


@pytest.mark.parametrize(("name", "tests"), cases(visual=True))
def test_contracts(name: str, tests: list[str], two_ranks: Ranks) -> None:
    check(name, tests, two_ranks)
