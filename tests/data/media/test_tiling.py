import numpy as np
import pytest
from PIL import Image

from data.conftest import golden
from mmcomponents.data.media.images import NORMALIZATIONS, pixels
from mmcomponents.data.media.tiling import Tiling, WholeImages, count_tiles, tile_grid, tile_image

FIGURES = golden("a_dynamic_tiling")


def test_every_decision_of_the_reference() -> None:
    rows = FIGURES["decisions"]
    assert len(rows) > 300
    for row in rows:
        limits = row["width"], row["height"], row["min_num"], row["max_num"]
        assert tile_grid(*limits) == (row["cols"], row["rows"]), row
        assert count_tiles(*limits) == row["num_tiles_with_thumbnail"]
        assert count_tiles(*limits, thumbnail=False) == row["num_tiles_no_thumbnail"]


def test_of_equally_close_grids_the_larger_needs_more_than_half_of_its_area() -> None:
    assert 2 * 896 * 1008 == 9 * 448 * 448
    assert tile_grid(896, 1008, 1, 12) == (2, 2)
    assert tile_grid(897, 1009, 1, 12) == (3, 3)


def synthetic(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [x * 255 // (width - 1), y * 255 // (height - 1), (3 * x + 5 * y) % 256]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("figure", FIGURES["pixel_checks"], ids=lambda f: f"{f['width']}x{f['height']}")
def test_pixels_of_the_reference(figure: dict) -> None:
    image = synthetic(figure["width"], figure["height"])
    tiles = tile_image(image, figure["min_num"], figure["max_num"], thumbnail=figure["use_thumbnail"])
    assert [len(tiles), 3, 448, 448] == figure["shape"]
    at = [(0, 0), (447, 0), (0, 447), (447, 447), (300, 200)]  # (column, row)
    corners = np.array([[tile.getpixel(place) for place in at] for tile in tiles], dtype=int)
    assert np.abs(corners - np.array(figure["tile_corner_pixels_uint8"])).max() <= 1
    means = np.array([np.asarray(tile).reshape(-1, 3).mean(0) for tile in tiles])
    assert np.abs(means - np.array(figure["tile_channel_mean_uint8"])).max() < 0.05
    values = pixels(tiles, *NORMALIZATIONS["imagenet"])
    assert list(values.shape) == figure["shape"]
    assert np.abs(values.mean((2, 3)).numpy() - np.array(figure["normalized_channel_mean"])).max() < 1e-3


def test_several_images_share_the_budget() -> None:
    tiling = Tiling(1, 12)
    assert [tiling.for_images(n).max_tiles for n in (0, 1, 2, 5, 30)] == [12, 12, 6, 2, 1]
    # With a minimum above the share there is no grid, and InternVL's code makes one tile.
    few = [Tiling(3, 12).for_images(n) for n in (1, 4, 5, 12)]
    assert [(one.min_tiles, one.max_tiles) for one in few] == [(3, 12), (3, 3), (1, 1), (1, 1)]
    assert Tiling(1, 12, share=False).for_images(30).max_tiles == 12


@pytest.mark.parametrize(
    "limits", [(0, 5, 1, 1), (5, 0, 1, 1), (-5, -5, 1, 1), (5, 5, 0, 3), (5, 5, 4, 3), (5, 5, 1, 1, 0)]
)
def test_impossible_limits_are_refused(limits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tiles"):
        tile_grid(*limits)


def test_the_least_limits() -> None:
    assert tile_grid(1, 1, 1, 1, 1) == (1, 1)
    for bad in ({"min_tiles": 0}, {"min_tiles": 4, "max_tiles": 3}, {"tile_size": 0}):
        with pytest.raises(ValueError, match="tile"):
            Tiling(**bad)
    assert Tiling(1, 1, 1).count(1, 1) == 1


def test_without_settings_those_of_internvl3_hold() -> None:
    for width, height in ((300, 200), (5000, 200), (900, 900), (20, 3000)):
        assert tile_grid(width, height) == tile_grid(width, height, 1, 12, 448)
        assert (
            count_tiles(width, height) == Tiling().count(width, height) == Tiling(1, 12, 448, True).count(width, height)
        )
    assert [tile.size for tile in tile_image(synthetic(900, 450))] == [(448, 448)] * 3


def test_whole_images_are_one_tile_of_their_own_shape() -> None:
    tiling = WholeImages(tile_size=80, longest=133)
    assert tiling.size(640, 480) == (107, 80)
    assert tiling.size(300, 1000) == (40, 133)  # the longer side is the limit
    assert tiling.size(40, 40) == (80, 80)
    (tile,) = tiling.cut(Image.new("RGB", (640, 480)))
    assert tile.size == (107, 80)
    assert tiling.count(300, 1000) == 1
    assert tiling.for_images(5) == tiling
    with pytest.raises(ValueError, match="the longer side 70 is less than the shorter one, tile_size 80"):
        WholeImages(tile_size=80, longest=70)
