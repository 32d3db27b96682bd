"""The tabletop: a hand, a wall and coloured discs, seen from above, with gymnasium's interface.

(0, 0) ┌──────────────┐
│  ●      ●    │  discs; the goal names the colour of one
│    ▬▬▬▬      │  wall: touching it ends the episode
│      ○       │  hand
└──────────────┘ (1, 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mmcomponents.evaluation.control_episodes import Environment

Point = npt.NDArray[np.float64]

COLOURS = {"red": (214, 48, 39), "green": (38, 160, 70), "blue": (46, 92, 210), "yellow": (240, 196, 25)}
PHRASES = ("go to the {} disc", "move to the {} disc", "drive to the {} disc")
GOALS = tuple(phrase.format(colour) for phrase in PHRASES for colour in COLOURS)
"""All goals in words."""

STEP = 0.06
"""Longest movement in a step; shares of the table's side, as all lengths here."""

HAND, DISC, WALL = 0.05, 0.08, (0.12, 0.03)
"""Radius of the hand and of a disc, and half of the length and of the thickness of the wall."""

_TABLE, _WALL, _HAND = (124, 116, 104), (20, 20, 24), (250, 250, 250)
"""Colours. That of the table is the mean of ImageNet's pixels, which becomes 0 in the input of an encoder."""

_DRAWN_AT = 4
"""Images are drawn larger by this factor and then reduced."""


@dataclass(frozen=True)
class Camera:
    """View of the table.

    Attributes:
        degrees: Rotation of the picture.
        scale: Size of the table in the picture.
        shift: Shift of the table's centre to the right and downwards, in shares of the picture's side.
    """

    degrees: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def seen(self, points: Point) -> Point:
        """Returns points of the table, `[n, 2]`, as shares of the picture."""
        angle = math.radians(self.degrees)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        found: Point = (points - 0.5) @ turn.T * self.scale + 0.5 + np.array(self.shift)
        return found


class TabletopEnvironment(Environment):
    """Control task whose goal is a sentence. An action is a movement `[2]` to the right and downwards.

    The discs have two of four colours and stand on both sides beyond the wall, which is before the hand. An episode
    ends with success when the hand's centre is over the disc that the goal names, and without when the hand touches the
    wall or after `max_steps`.

    Args:
        side: Side of the observed image in pixels.
        camera: View of the table.
        max_steps: Largest number of steps.
    """

    def __init__(self, side: int = 48, camera: Camera | None = None, max_steps: int = 40) -> None:
        self.side, self.camera, self.max_steps = side, camera or Camera(), max_steps
        self.hand = self.wall = np.zeros(2)
        self.discs: dict[str, Point] = {}
        self.goal, self.colour, self.steps = "", "", 0

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode that depends on the seed only; returns observation and information."""
        draw = np.random.default_rng((20_26, seed))
        self.hand = np.array([draw.uniform(0.44, 0.56), draw.uniform(0.8, 0.92)])
        self.wall = np.array([0.5, draw.uniform(0.48, 0.54)])
        places = np.stack((draw.permutation([0.3, 0.7]), np.full(2, 0.16)), axis=1)
        places += draw.uniform(-0.05, 0.05, (2, 2))
        colours = [str(colour) for colour in draw.permutation(list(COLOURS))[:2]]
        self.discs = dict(zip(colours, places, strict=True))
        self.colour, self.steps = colours[0], 0
        self.goal = PHRASES[int(draw.integers(len(PHRASES)))].format(self.colour)
        return self.observation(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the hand by an action `[2]`, cut to the length `STEP`.

        Returns:
            Observation, reward (1 for success), whether the episode has ended, whether it was too long, information
            with "success" and "touched".

        Raises:
            ValueError: The action does not have two finite values.
        """
        move = np.asarray(action, np.float64)
        if move.shape != (2,) or not np.isfinite(move).all():
            raise ValueError(f"an action is two finite numbers, got {np.array2string(move, threshold=8)[:60]}")
        move = move * min(1.0, STEP / max(float(np.hypot(*move)), 1e-9))
        self.steps += 1
        touched = False
        for share in (0.5, 1.0):  # a step is longer than the wall is thick
            touched = touched or self._touches(self.hand + share * move)
        self.hand = (self.hand + move).clip(0.0, 1.0)
        success = not touched and float(np.hypot(*(self.hand - self.discs[self.colour]))) < DISC
        truncated = self.steps >= self.max_steps and not (success or touched)
        info = {"success": success, "touched": touched}
        return self.observation(), float(success), success or touched, truncated, info

    def observation(self) -> dict[str, Any]:
        """Returns the image, a `PIL.Image`, and the goal, a text."""
        return {"image": self.render(), "goal": self.goal}

    def render(self) -> Image.Image:
        """Draws the table."""
        size = self.side * _DRAWN_AT
        image = Image.new("RGB", (size, size), _TABLE)
        draw = ImageDraw.Draw(image)
        for colour, place in self.discs.items():
            self._circle(draw, place, DISC, COLOURS[colour])
        corners = self.wall + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * WALL
        draw.polygon([tuple(p) for p in (self.camera.seen(corners) * size).tolist()], fill=_WALL)
        self._circle(draw, self.hand, HAND, _HAND)
        return image.resize((self.side, self.side), Image.Resampling.BOX)

    def _circle(self, draw: ImageDraw.ImageDraw, centre: Point, radius: float, colour: tuple[int, int, int]) -> None:
        size = self.side * _DRAWN_AT
        x, y = (self.camera.seen(centre[None])[0] * size).tolist()
        r = radius * self.camera.scale * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def _touches(self, hand: Point) -> bool:
        beyond = np.maximum(np.abs(hand - self.wall) - np.array(WALL), 0.0)
        return float(np.hypot(*beyond)) < HAND
