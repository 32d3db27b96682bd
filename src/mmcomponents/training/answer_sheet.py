"""Drawing of a model's answers as an image."""

from __future__ import annotations

import io
import textwrap

from PIL import Image, ImageDraw, ImageFont

_SCENE = 150
_TEXT = 250
_HEIGHT = 176
_PAD = 12
_COLUMNS = 3

Row = tuple[bytes, str, str, str, bool]
"""Image (PNG or JPEG bytes), question, correct answer, model's answer, whether it is correct."""


def answer_sheet(rows: list[Row]) -> Image.Image:
    """Draws questions, correct answers and the model's answers next to their images.

    Args:
        rows: Questions in order.

    Returns:
        RGB image with three questions per line; wrong answers are red.
    """
    cell = _SCENE + _TEXT + 3 * _PAD
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (cell * min(_COLUMNS, len(rows)), (_HEIGHT + _PAD) * lines + _PAD), "white")
    for i, row in enumerate(rows):
        _draw(sheet, row, (i % _COLUMNS) * cell + _PAD, (i // _COLUMNS) * (_HEIGHT + _PAD) + _PAD)
    return sheet


def _draw(sheet: Image.Image, row: Row, x: int, y: int) -> None:
    picture, question, answer, prediction, is_right = row
    scene = Image.open(io.BytesIO(picture)).convert("RGB")
    scale = min(_SCENE / scene.width, _SCENE / scene.height)
    scene = scene.resize((round(scene.width * scale), round(scene.height * scale)), Image.Resampling.NEAREST)
    sheet.paste(scene, (x, y))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.rectangle((x - 1, y - 1, x + scene.width, y + scene.height), outline="#bbbbbb")
    x += _SCENE + _PAD
    for text, colour in (
        (question, "#222222"),
        (f"right: {answer}", "#666666"),
        (f"model: {prediction}", "#00794c" if is_right else "#c02020"),
    ):
        wrapped = "\n".join(textwrap.fill(line, 33) for line in text.splitlines())
        draw.multiline_text((x, y), wrapped, fill=colour, font=font, spacing=3)
        y += 19 * (wrapped.count("\n") + 1) + 6
