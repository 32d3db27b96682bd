from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.media.augmentation import JpegRecompression


def photograph(side: int = 32) -> Image.Image:
    """Soft shapes with some noise: every quality of a JPEG gives other pixels."""
    y, x = np.mgrid[:side, :side] / side
    colours = np.stack([np.sin(5 * x + y), np.cos(4 * y), x * y], -1) * 90 + 120
    noise = np.random.default_rng(0).normal(0, 12, colours.shape)
    return Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))


def of_quality(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB").tobytes()


TILE = photograph()
BY_QUALITY = {of_quality(TILE, quality): quality for quality in range(50, 101)}


def qualities(tiles: list[Image.Image]) -> list[int]:
    return [BY_QUALITY[tile.tobytes()] for tile in tiles]


def test_each_tile_has_its_own_draw_and_both_ends_come_up() -> None:
    assert len(BY_QUALITY) == 51, "pixels tell the quality"
    drawn = qualities(JpegRecompression()([TILE] * 2000, (0,)))
    counts = np.bincount(drawn, minlength=101)
    assert set(drawn) == set(range(75, 101))
    assert counts[75:].min() > 40, "2000 / 26 = 77 expected of each"
    assert counts[75:].max() < 120
    assert np.corrcoef(drawn[:-1], drawn[1:])[0, 1] == pytest.approx(0, abs=0.1)
    assert set(qualities(JpegRecompression(90, 91)([TILE] * 40, (0,)))) == {90, 91}
    assert set(qualities(JpegRecompression(60, 60)([TILE] * 3, (0,)))) == {60}


def test_the_seed_decides() -> None:
    recompress = JpegRecompression()
    first = qualities(recompress([TILE] * 20, (3, 1, 4)))
    recompress([TILE], (9,))
    assert qualities(recompress([TILE] * 20, (3, 1, 4))) == first
    assert qualities(JpegRecompression()([TILE] * 20, [3, 1, 4])) == first
    others = [qualities(recompress([TILE] * 20, seed)) for seed in ((3, 1, 5), (3, 4, 1), (3, 1), (3, 1, 4, 1))]
    assert all(other != first for other in others)


def test_tiles_stay_what_they_are() -> None:
    tiles = [photograph(28), Image.new("RGB", (28, 28), (200, 30, 40))]
    before = [tile.tobytes() for tile in tiles]
    after = JpegRecompression(75, 75)(tiles, (0,))
    assert [tile.tobytes() for tile in tiles] == before
    assert [(tile.mode, tile.size) for tile in after] == [("RGB", (28, 28))] * 2
    assert all(type(tile) is Image.Image for tile in after)
    difference = np.abs(np.asarray(after[0]).astype(int) - np.asarray(tiles[0]))
    assert 1 < difference.mean() < 20, "changed, and still the same picture"
    assert np.abs(np.asarray(after[1]).astype(int) - np.asarray(tiles[1])).max() <= 3
    assert JpegRecompression()([], (0,)) == []


@pytest.mark.parametrize(("least", "most"), [(0, 100), (75, 101), (90, 80), (-5, -1)])
def test_wrong_ranges_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"qualities from {least} to {most}"):
        JpegRecompression(least, most)
