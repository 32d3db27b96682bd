"""Which contract tests run for each case: all for the first case of a part; on two ranks, its variants are slow."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.cases import PARTS, VISUAL
from mmcomponents.testing import Ranks, check_component
from mmcomponents.testing.component_check import CONTRACTS


def cases(visual: bool) -> list[Any]:
    """Returns (name, tests) of each case of the visual side, or of the other slots."""
    found: list[Any] = []
    seen = set[str]()
    for name, part in PARTS.items():
        if (part["slot"] in VISUAL) != visual:
            continue
        own = [one for one, rule in CONTRACTS.items() if part["slot"] in rule.slots]
        tests = [one for one in own if one in part.get("only", own)]
        named = name.partition(" ")[0].rstrip(",")
        if named not in seen:
            seen.add(named)
            found.append(pytest.param(name, tests, id=name))
            continue
        on_ranks = [one for one in tests if CONTRACTS[one].on_ranks]
        found.append(pytest.param(name, [one for one in tests if one not in on_ranks], id=name))
        if on_ranks:
            found.append(pytest.param(name, on_ranks, id=f"{name}, two ranks", marks=pytest.mark.slow))
    return found


def check(name: str, tests: list[str], ranks: Ranks) -> None:
    """Runs contract tests of a case."""
    check_component(**{**PARTS[name], "only": tests, "ranks": ranks})
