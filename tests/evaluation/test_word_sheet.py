"""Picture of the nearest words of visual tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmcomponents.evaluation.word_sheet import word_sheet
from mmcomponents.generation.visual_words import TileWords


def words(first: str, grid: tuple[int, int] | None = (2, 2)) -> TileWords:
    return TileWords([[first], [" b"], [" c"], [" d"]], torch.zeros(4, 1), grid)


def test_each_word_is_drawn_in_its_cell() -> None:
    tiles = [Image.new("RGB", (28, 28), "black")] * 2
    plain, changed = (np.asarray(word_sheet(tiles, [words(" x"), words(text)])) for text in (" a", " seven"))
    assert plain.shape == changed.shape
    differs = np.argwhere((plain != changed).any(-1))
    side = 168  # two cells of 84 pixels
    assert differs[:, 0].max() < 12 + side / 2  # upper half of a tile
    assert differs[:, 1].min() >= 12 + side + 12  # the second tile
    assert differs[:, 1].max() < 12 + side + 12 + side / 2


def test_long_words_stay_in_their_cells() -> None:
    tile = [Image.new("RGB", (28, 28), "black")]
    long, other = (np.asarray(word_sheet(tile, [words(text)])) for text in ("w" * 80, "v" * 80))
    assert np.argwhere((long != other).any(-1))[:, 1].max() < 12 + 84


def test_many_tiles_take_several_lines() -> None:
    tile = Image.new("RGB", (28, 28), "black")
    assert word_sheet([tile] * 10, [words("a")] * 10).size == (8 * 180 + 12, 2 * 180 + 12)


def test_tokens_without_places_are_refused() -> None:
    with pytest.raises(ValueError, match="4 visual tokens of a tile have no places"):
        word_sheet([Image.new("RGB", (28, 28))], [words("a", None)])
