"""Drawing of a model's answers as an image, and their short texts."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmcomponents.generation.base import Answer

_SCENE = 150
_TEXT = 250
_HEIGHT = 176
_PAD = 12
_COLUMNS = 3

_CHARACTERS = 60
"""Maximum number of characters of a short text of values."""

_SHOWN = 6
"""Maximum number of values in a short text."""


@dataclass(frozen=True)
class Row:
    """A question with the model's answer.

    Attributes:
        picture: The question's image, as the bytes of a PNG or JPEG file; None for a question without one.
        question: Text of the question.
        answer: Correct answer; empty if there is none.
        prediction: The model's answer as text.
        is_right: Whether it is correct; None for answers that are not compared.
        made: Picture that the model answered with.
        by: Whose text `prediction` is.
    """

    picture: bytes | None
    question: str
    answer: str
    prediction: str
    is_right: bool | None = None
    made: Image.Image | None = None
    by: str = "model"

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The texts, with their colours."""
        colour = {None: "#222222", True: "#00794c", False: "#c02020"}[self.is_right]
        found = [(self.question, "#222222")]
        if self.answer:
            found.append((f"right: {self.answer}", "#666666"))
        if self.made is None or self.prediction:
            found.append((f"{self.by}: {self.prediction}", colour))
        return found


def answer_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draws questions, correct answers and the model's answers next to their images.

    Args:
        rows: Questions in order.

    Returns:
        RGB image with three questions per line; wrong answers are red. Pictures of the model stand beside the images.
        Without any images and pictures, texts only.
    """
    images = any(row.picture is not None for row in rows)
    cell = _TEXT + 2 * _PAD + (_SCENE + _PAD) * (images + any(row.made is not None for row in rows))
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (cell * min(_COLUMNS, len(rows)), (_HEIGHT + _PAD) * lines + _PAD), "white")
    for i, row in enumerate(rows):
        _draw(sheet, row, (i % _COLUMNS) * cell + _PAD, (i // _COLUMNS) * (_HEIGHT + _PAD) + _PAD)
    return sheet


def short(answer: Any) -> str:
    """Returns a correct answer as a short text: itself, its first values, or the beginning of its JSON; "" for None."""
    if isinstance(answer, str) or answer is None:
        return answer or ""
    try:
        return _first_values(torch.tensor(answer))
    except (TypeError, ValueError, RuntimeError):  # no rectangular table of numbers
        text = json.dumps(answer)
        return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def brief(answer: Answer) -> str:
    """Returns a short text of an answer: its text, or its first values; empty for a picture."""
    return answer.text or "" if answer.values is None else _first_values(answer.values)


def _first_values(values: Tensor) -> str:
    shape, count = " x ".join(map(str, values.shape)), values.numel()
    found = values.flatten()[:_SHOWN].tolist()
    first = ", ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in found)
    return first if count <= _SHOWN and values.ndim <= 1 else f"{first}{', …' * (count > _SHOWN)} ({shape})"


def _draw(sheet: Image.Image, row: Row, x: int, y: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    stored = [] if row.picture is None else [Image.open(io.BytesIO(row.picture))]
    for picture in (*stored, *([] if row.made is None else [row.made])):
        _paste(sheet, draw, picture.convert("RGB"), x, y)
        x += _SCENE + _PAD
    for text, colour in row.lines:
        wrapped = "\n".join(textwrap.fill(line, 33) for line in text.splitlines())
        draw.multiline_text((x, y), wrapped, fill=colour, font=font, spacing=3)
        y += 19 * (wrapped.count("\n") + 1) + 6


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, scene: Image.Image, x: int, y: int) -> None:
    scale = min(_SCENE / scene.width, _SCENE / scene.height)
    size = (max(round(scene.width * scale), 1), max(round(scene.height * scale), 1))
    scene = scene.resize(size, Image.Resampling.NEAREST)
    sheet.paste(scene, (x, y))
    draw.rectangle((x - 1, y - 1, x + scene.width, y + scene.height), outline="#bbbbbb")
