"""Scenes of one or two coloured shapes: requests, reasoning and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mmcomponents.data.chat.picture_prompt import ASK
from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.reasoned_boxes import ReasonedBox

SIDE = 36
"""Side of a picture in pixels."""

SHAPES = ("square", "circle", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
GROUNDS = ("white", "gray", "black")
PLACES = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the middle", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
"""Names of the nine cells of a picture, row by row."""

CELL = SIDE // 3
SIZES = {"small": 7, "large": 11}
"""Side of a thing in pixels, by its size in words."""

_FINE = 8
"""Number of lines of a pixel when a shape is drawn, before it is reduced."""


@dataclass(frozen=True)
class Thing:
    """A thing of a scene.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: "small" or "large".
        place: Number of its cell.
        box: Left, top, right and bottom in pixels.
    """

    shape: str
    colour: str
    size: str
    place: int
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Size, colour and shape in words."""
        return f"{self.size} {self.colour} {self.shape}"

    def reasoned(self) -> ReasonedBox:
        """Returns the box in thousandths, with its colour."""
        left, top, right, bottom = (float(round(value * SCALE / SIDE)) for value in self.box)
        return ReasonedBox((left, top, right, bottom), self.colour)


@dataclass(frozen=True)
class Scene:
    """Things on a ground.

    Attributes:
        things: One or two things of different colours, in different cells.
        ground: One of `GROUNDS`.
        named: Whether the request names the places.
    """

    things: tuple[Thing, ...]
    ground: str
    named: bool = True

    @property
    def request(self) -> str:
        """The request for a picture."""
        each = [f"a {t.name} {PLACES[t.place]}" if self.named else f"a {t.name}" for t in self.things]
        return f"{ASK}{' and '.join(each)}, on {self.ground}"

    @property
    def reasoning(self) -> str:
        """The reasoning: each thing with its box and colour."""
        return " ".join(f"<ref>{thing.name}</ref>{thing.reasoned().written()}" for thing in self.things)


def make_scene(generator: np.random.Generator, unnamed: float = 0.0) -> Scene:
    """Returns a random scene.

    Args:
        generator: Source of randomness.
        unnamed: Probability that the request does not name the places.
    """
    count = int(generator.integers(1, 3))
    places = generator.choice(len(PLACES), count, replace=False).tolist()
    colours = generator.choice(len(COLOURS), count, replace=False).tolist()
    things = []
    for place, colour in zip(places, colours, strict=True):
        size = ("small", "large")[int(generator.integers(2))]
        side = SIZES[size]
        free = CELL - side
        left, top = (int(generator.integers(0, free + 1)) for _ in range(2))
        left, top = left + CELL * (place % 3), top + CELL * (place // 3)
        shape = SHAPES[int(generator.integers(len(SHAPES)))]
        things.append(Thing(shape, COLOURS[colour], size, place, (left, top, left + side, top + side)))
    ground = GROUNDS[int(generator.integers(len(GROUNDS)))]
    return Scene(tuple(things), ground, bool(generator.random() >= unnamed))


def draw_scene(scene: Scene) -> Image.Image:
    """Draws a scene, with smooth edges."""
    drawn = Image.new("RGB", (SIDE * _FINE, SIDE * _FINE), scene.ground)
    pen = ImageDraw.Draw(drawn)
    for thing in scene.things:
        left, top, right, bottom = (value * _FINE for value in thing.box)
        inner = (left, top, right - 1, bottom - 1)
        if thing.shape == "square":
            pen.rectangle(inner, fill=thing.colour)
        elif thing.shape == "circle":
            pen.ellipse(inner, fill=thing.colour)
        else:
            # The tip is a pixel wide, so that the box of the pixels is that of the thing.
            tip = left + (right - left - _FINE) // 2
            corners = [(left, bottom - 1), (right - 1, bottom - 1), (tip + _FINE - 1, top), (tip, top)]
            pen.polygon(corners, fill=thing.colour)
    return drawn.resize((SIDE, SIDE), Image.Resampling.BOX)
