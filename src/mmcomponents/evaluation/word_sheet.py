"""Drawing of the nearest words of visual tokens over their tiles."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from mmcomponents.generation.visual_words import TileWords

_CELL = (84, 34)
"""Least width and height of the cell of a visual token in pixels."""
_COLUMNS = 1600
"""Largest width of a sheet in pixels, unless a tile is wider."""
_PAD = 12
_FONT = 13
_FADED = 0.45
"""Share of white over the tile, so that words can be read."""


def word_sheet(tiles: Sequence[Image.Image], words: Sequence[TileWords]) -> Image.Image:
    """Draws tiles side by side, with the nearest word of each visual token in its cell.

    Args:
        tiles: Tiles before normalisation.
        words: Words of each tile.

    Raises:
        ValueError: The visual tokens have no places in the tile.
    """
    drawn = [_drawn(tile, found) for tile, found in zip(tiles, words, strict=True)]
    columns = max(1, (_COLUMNS - _PAD) // (drawn[0].width + _PAD))
    rows = -(-len(drawn) // columns)
    width, height = drawn[0].width + _PAD, drawn[0].height + _PAD
    sheet = Image.new("RGB", (width * min(columns, len(drawn)) + _PAD, height * rows + _PAD), "white")
    for place, picture in enumerate(drawn):
        sheet.paste(picture, (_PAD + width * (place % columns), _PAD + height * (place // columns)))
    return sheet


def _drawn(tile: Image.Image, found: TileWords) -> Image.Image:
    if found.grid is None:
        raise ValueError(f"{len(found.words)} visual tokens of a tile have no places in it, so they cannot be drawn")
    rows, columns = found.grid
    side = max(columns * _CELL[0], rows * _CELL[1], tile.width)
    picture = tile.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    picture = Image.blend(picture, Image.new("RGB", picture.size, "white"), _FADED)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_FONT)
    wide, high = side / columns, side / rows
    for place, nearest in enumerate(found.words):
        left, top = (place % columns) * wide, (place // columns) * high
        draw.rectangle((left, top, left + wide, top + high), outline="#888888")
        text = _fitting(nearest[0].strip(), font, wide - 6)
        draw.text(
            (left + wide / 2, top + high / 2), text, "#b00020", font, anchor="mm", stroke_width=2, stroke_fill="white"
        )
    return picture


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
