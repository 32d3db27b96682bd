"""Episodes of policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcomponents.evaluation.control_episodes import Environment, Observed, run_episodes


class Counting(Environment):
    """Succeeds when the sum of actions reaches the seed; lasts at most five steps."""

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        self.wanted, self.total, self.steps = seed, 0.0, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.total, self.steps = self.total + float(action[0]), self.steps + 1
        done = self.total >= self.wanted
        return self._seen(), float(done), done, self.steps == 5, {"success": done}

    def _seen(self) -> dict[str, Any]:
        return {"image": np.full((2, 2, 3), int(self.total), np.uint8), "goal": f"reach {self.wanted}"}


def ones(seen: Sequence[Observed]) -> list[Any]:
    return [np.ones((3, 1), np.float32)] * len(seen)


def test_episodes_end_with_success_or_after_their_steps() -> None:
    calls: list[list[str]] = []

    def policy(seen: Sequence[Observed]) -> list[Any]:
        calls.append([one.goal for one in seen])
        return ones(seen)

    episodes = run_episodes(policy, Counting, [1, 4, 9], executed=2)
    assert [(e.success, e.steps) for e in episodes] == [(True, 1), (True, 4), (False, 5)]
    assert calls == [["reach 1", "reach 4", "reach 9"], ["reach 4", "reach 9"], ["reach 9"]]


def test_a_policy_sees_the_last_images() -> None:
    seen: list[list[int]] = []

    def policy(now: Sequence[Observed]) -> list[Any]:
        seen.append([int(np.asarray(image)[0, 0, 0]) for image in now[0].images])
        return ones(now)

    run_episodes(policy, Counting, [9], executed=3, frames=2, most_steps=4)
    assert seen == [[0, 0], [2, 3]]


def test_images_are_kept_and_written_as_an_animation(tmp_path: Path) -> None:
    first, second = run_episodes(ones, Counting, [3, 3], executed=1, kept=1)
    assert (len(first.images), len(second.images)) == (4, 0)
    first.save_gif(tmp_path / "a.gif", scale=3)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 4
        assert animation.size == (6, 6)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="a chunk of 3 actions is shorter than the 4 that are executed"):
        run_episodes(ones, Counting, [3], executed=4)
    with pytest.raises(ValueError, match="executed 0, frames 1"):
        run_episodes(ones, Counting, [3], executed=0)
