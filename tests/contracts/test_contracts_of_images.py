"""The contract tests over the parts of the visual side; `test_contracts.py` has the others.

Two files, since a file is run by one process.
"""

from __future__ import annotations

import pytest

from contracts.cases import PARTS, VISUAL
from mmcomponents.testing import Ranks, check_component


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part["slot"] in VISUAL])
def test_contracts(name: str, two_ranks: Ranks) -> None:
    check_component(**PARTS[name], ranks=two_ranks)
