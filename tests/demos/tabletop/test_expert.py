"""Scripted demonstrations."""

from __future__ import annotations

import numpy as np

from mmcomponents.demos.tabletop import TabletopEnvironment, demonstrate
from mmcomponents.demos.tabletop.environment import STEP


def test_demonstrations_reach_their_goals_on_both_sides() -> None:
    environment, sides = TabletopEnvironment(), []
    for seed in range(40):
        shown = demonstrate(environment, seed)
        hand, goal = environment.hand, environment.discs[environment.colour]
        assert float(np.hypot(*(hand - goal))) < 0.1
        assert len(shown.images) == len(shown.actions)
        assert float(np.hypot(*shown.actions.T).max()) <= STEP + 1e-6
        sides.append(shown.side)
    assert 8 < sides.count(-1) < 32


def test_the_same_seed_gives_the_same_demonstration() -> None:
    one, two = (demonstrate(TabletopEnvironment(), 7) for _ in range(2))
    assert np.array_equal(one.actions, two.actions)
    assert one.goal == two.goal


def test_the_first_actions_lead_to_the_side_of_the_demonstration() -> None:
    for seed in range(10):
        shown = demonstrate(TabletopEnvironment(), seed)
        assert shown.actions[0, 0] * shown.side > 0
