"""The tabletop environment."""

from __future__ import annotations

import numpy as np
import pytest

from mmcomponents.demos.tabletop import Camera, TabletopEnvironment
from mmcomponents.demos.tabletop.environment import COLOURS, GOALS, STEP


def started(seed: int = 0) -> TabletopEnvironment:
    environment = TabletopEnvironment()
    environment.reset(seed=seed)
    return environment


def test_a_start_depends_on_its_seed_only() -> None:
    one, two = TabletopEnvironment().reset(seed=4)[0], TabletopEnvironment().reset(seed=4)[0]
    assert one["goal"] == two["goal"]
    assert np.array_equal(np.asarray(one["image"]), np.asarray(two["image"]))
    starts = [TabletopEnvironment().reset(seed=seed)[0] for seed in range(60)]
    assert {start["goal"] for start in starts} == set(GOALS)


def test_the_goal_names_a_disc_and_the_picture_shows_it() -> None:
    environment = started()
    colours = np.asarray(environment.render()).reshape(-1, 3).astype(int)
    assert environment.colour in environment.goal
    for name in environment.discs:
        assert int(np.abs(colours - np.array(COLOURS[name])).sum(1).min()) < 30


def test_the_hand_moves_at_most_one_step_and_stays_on_the_table() -> None:
    environment = started()
    before = environment.hand.copy()
    environment.step([0.01, 0.02])
    np.testing.assert_allclose(environment.hand - before, [0.01, 0.02])
    before = environment.hand.copy()
    environment.step([3.0, 4.0])
    moved = environment.hand - before
    assert float(np.hypot(*moved)) <= STEP + 1e-9
    for _ in range(10):
        environment.step([0.0, 1.0])
    assert environment.hand[1] == 1.0


def test_the_wall_ends_an_episode_without_success() -> None:
    environment = started()
    for _ in range(20):
        _, reward, terminated, truncated, info = environment.step([0.0, -1.0])
        if terminated:
            break
    assert terminated
    assert info == {"success": False, "touched": True}
    assert reward == 0.0
    assert not truncated


def test_a_hand_over_its_disc_has_succeeded_and_over_another_one_not() -> None:
    environment = started()
    other = next(colour for colour in environment.discs if colour != environment.colour)
    for colour, success in ((other, False), (environment.colour, True)):
        environment.hand = environment.discs[colour] + np.array([0.03, 0.0])
        _, reward, terminated, _, info = environment.step([0.0, 0.0])
        assert (info["success"], terminated, reward) == (success, success, float(success))


def test_a_long_episode_is_truncated_and_a_wrong_action_refused() -> None:
    environment = TabletopEnvironment(max_steps=2)
    environment.reset(seed=0)
    assert [environment.step([0.0, 0.0])[3] for _ in range(2)] == [False, True]
    for action in ([0.0], [np.nan, 0.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="an action is two finite numbers"):
            environment.step(action)


def test_another_camera_sees_the_same_table_elsewhere() -> None:
    camera = Camera(90.0, 0.5, (0.1, 0.0))
    np.testing.assert_allclose(camera.seen(np.array([[0.5, 0.5], [1.0, 0.5]])), [[0.6, 0.5], [0.6, 0.75]], atol=1e-9)
    plain, shifted = (TabletopEnvironment(camera=c).reset(seed=1)[0]["image"] for c in (None, camera))
    assert not np.array_equal(np.asarray(plain), np.asarray(shifted))
