"""Scripted demonstrations of the tabletop, of two modes: the side on which the hand passes the wall is a coin toss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmcomponents.demos.tabletop.environment import HAND, STEP, WALL, TabletopEnvironment

_MARGIN = 0.08
"""Distance that the hand keeps from the wall."""


@dataclass(frozen=True)
class Demonstration:
    """A demonstrated episode.

    Attributes:
        goal: The goal in words.
        images: Image before each action.
        actions: `[n, 2]` fp32 actions of the expert.
        side: -1 if the hand passes the wall on the left, 1 on the right.
    """

    goal: str
    images: list[Image.Image]
    actions: npt.NDArray[np.float32]
    side: int


def demonstrate(environment: TabletopEnvironment, seed: int, shake: float = 0.015) -> Demonstration:
    """Demonstrates the episode of a seed, to its success.

    The hand moves by the expert's actions and small random displacements, which are not recorded, so that
    demonstrations show how to come back to the way.

    Args:
        environment: Environment to act in, which is reset.
        seed: Seed of the episode, of the side and of the displacements.
        shake: Standard deviation of the displacements.
    """
    for attempt in range(100):
        draw = np.random.default_rng((20_27, seed, attempt))
        side = 1 if draw.integers(2) else -1
        observation, _ = environment.reset(seed=seed)
        images, actions, ended, info = [], [], False, {"success": False}
        while not ended:
            images.append(observation["image"])
            actions.append(_move(environment, side))
            shaken = actions[-1] + draw.normal(0.0, shake, 2)
            observation, _, terminated, truncated, info = environment.step(shaken)
            ended = terminated or truncated
        if info["success"]:
            return Demonstration(environment.goal, images, np.array(actions, np.float32), side)
    raise RuntimeError(f"no demonstration of the episode {seed} succeeds")


def _move(environment: TabletopEnvironment, side: int) -> npt.NDArray[np.float64]:
    """Returns the movement to the corner of the wall, then to its other side, then to the disc."""
    hand, wall = environment.hand, environment.wall
    clear = np.array([wall[0] + side * (WALL[0] + HAND + _MARGIN), wall[1]])
    aim = environment.discs[environment.colour]
    if hand[1] > wall[1] - WALL[1] - HAND and (hand[1] > wall[1] or (hand[0] - wall[0]) * side < WALL[0] + HAND):
        aim = clear + np.array([0.0, -0.02])
    way = aim - hand
    found: npt.NDArray[np.float64] = way * min(1.0, STEP / max(float(np.hypot(*way)), 1e-9))
    return found
