"""Dynamic tiling: an image is split into a grid of square tiles, followed by a thumbnail of the complete image.

Introduced by InternVL 1.5 (arXiv 2404.16821, section 3.2) and unchanged in InternVL3. The grid is the one with the
aspect ratio closest to the image's; of equally close grids, a larger one is chosen only if the image has enough pixels
to fill more than half of it. The image is then resized to the grid regardless of its own aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from mmcomponents.limits import MAX_TILES, check_sizes

if TYPE_CHECKING:
    from PIL import Image


@lru_cache(maxsize=64)
def _candidates(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


@lru_cache(maxsize=65536)
def tile_grid(
    width: int, height: int, min_tiles: int = 1, max_tiles: int = 12, tile_size: int = 448
) -> tuple[int, int]:
    """Returns the (columns, rows) of tiles that an image is split into.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        min_tiles: Minimum number of tiles, excluding the thumbnail.
        max_tiles: Maximum number of tiles, excluding the thumbnail.
        tile_size: Side of a tile in pixels.

    Raises:
        ValueError: A size or a limit is below one, or `min_tiles` exceeds `max_tiles`.
    """
    if width < 1 or height < 1 or tile_size < 1:
        raise ValueError(f"an image of {width}x{height} cannot be cut into tiles of {tile_size}")
    if not 1 <= min_tiles <= max_tiles:
        raise ValueError(f"1 <= min_tiles <= max_tiles does not hold for min_tiles {min_tiles}, max_tiles {max_tiles}")
    ratio = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _candidates(min_tiles, max_tiles):  # by ascending area
        distance = abs(ratio - columns / rows)
        fills_half = width * height > 0.5 * tile_size * tile_size * columns * rows
        if distance < best_distance or (distance == best_distance and fills_half):
            best, best_distance = (columns, rows), distance
    return best


def count_tiles(
    width: int,
    height: int,
    min_tiles: int = 1,
    max_tiles: int = 12,
    tile_size: int = 448,
    thumbnail: bool = True,
) -> int:
    """Returns the number of tiles of an image, including the thumbnail."""
    columns, rows = tile_grid(width, height, min_tiles, max_tiles, tile_size)
    tiles = columns * rows
    return tiles + 1 if thumbnail and tiles > 1 else tiles


def tile_image(
    image: Image.Image, min_tiles: int = 1, max_tiles: int = 12, tile_size: int = 448, thumbnail: bool = True
) -> list[Image.Image]:
    """Splits an image into tiles, row by row, followed by a thumbnail if there are several tiles.

    Args:
        image: An RGB image.
        min_tiles: Minimum number of tiles, excluding the thumbnail.
        max_tiles: Maximum number of tiles, excluding the thumbnail.
        tile_size: Side of a tile in pixels.
        thumbnail: Whether to add the complete image, resized to one tile.

    Returns:
        Images of `tile_size` x `tile_size`.
    """
    columns, rows = tile_grid(image.width, image.height, min_tiles, max_tiles, tile_size)
    canvas = image.resize((columns * tile_size, rows * tile_size))  # bicubic, Pillow's default
    tiles = [
        canvas.crop((left, top, left + tile_size, top + tile_size))
        for top in range(0, rows * tile_size, tile_size)
        for left in range(0, columns * tile_size, tile_size)
    ]
    if thumbnail and len(tiles) > 1:
        tiles.append(image.resize((tile_size, tile_size)))
    return tiles


@dataclass(frozen=True)
class Tiling:
    """Settings of dynamic tiling.

    Attributes:
        min_tiles: Minimum number of tiles of an image, excluding the thumbnail.
        max_tiles: Maximum number of tiles, excluding thumbnails: of all images of a sample together, or of each.
        tile_size: Side of a tile in pixels.
        thumbnail: Whether several tiles are followed by a thumbnail of the complete image.
        share: Whether the images of a sample share `max_tiles`, as in InternVL's training; in its inference, each image
            has all of them.

    Raises:
        ValueError: A setting is below one or too large, or `min_tiles` exceeds `max_tiles`.
    """

    min_tiles: int = 1
    max_tiles: int = 12
    tile_size: int = 448
    thumbnail: bool = True
    share: bool = True

    def __post_init__(self) -> None:
        check_sizes(MAX_TILES, min_tiles=self.min_tiles, max_tiles=self.max_tiles)
        check_sizes(tile_size=self.tile_size)
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is more than max_tiles {self.max_tiles}")

    def for_images(self, count: int) -> Tiling:
        """Returns the settings for each of `count` images of a sample.

        If the share of an image is less than `min_tiles`, the image is one tile, as in InternVL's training code.
        """
        if not self.share or count < 2:
            return self
        most = max(1, self.max_tiles // count)
        return replace(
            self,
            min_tiles=self.min_tiles if self.min_tiles <= most else 1,
            max_tiles=most if self.min_tiles <= most else 1,
        )

    def for_frames(self) -> Tiling:
        """Returns the settings for video frames: one tile each, without a thumbnail."""
        return replace(self, min_tiles=1, max_tiles=1, thumbnail=False)

    def count(self, width: int, height: int) -> int:
        """Returns the number of tiles of an image, including the thumbnail."""
        return count_tiles(width, height, self.min_tiles, self.max_tiles, self.tile_size, self.thumbnail)

    def cut(self, image: Image.Image) -> list[Image.Image]:
        """Returns the tiles of an image, see `tile_image`."""
        return tile_image(image, self.min_tiles, self.max_tiles, self.tile_size, self.thumbnail)


@dataclass(frozen=True)
class WholeImages(Tiling):
    """Images that are not split: one tile of the image's own aspect ratio, as detection takes them.

    Attributes:
        longest: Largest longer side in pixels. The shorter side is `tile_size`, or less if the longer one would exceed
            this.

    Raises:
        ValueError: `longest` is less than `tile_size`.
    """

    longest: int = 1333

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(longest=self.longest)
        if self.longest < self.tile_size:
            raise ValueError(f"the longer side {self.longest} is less than the shorter one, tile_size {self.tile_size}")

    def for_images(self, count: int) -> Tiling:
        """Returns the same settings for any number of images."""
        return self

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns width and height of the tile of an image."""
        factor = min(self.tile_size / min(width, height), self.longest / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def count(self, width: int, height: int) -> int:
        """Returns 1."""
        return 1

    def cut(self, image: Image.Image) -> list[Image.Image]:
        """Returns the image in the size of its tile."""
        size = self.size(image.width, image.height)
        return [image if size == image.size else image.resize(size)]
