"""Base class of vision encoders."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from mmcomponents.batch import ImageBatch, VisualFeatures
from mmcomponents.component import Component, WiringError


class VisionEncoder(Component):
    """Encodes tiles as feature maps.

    Attributes:
        hidden_size: Width of the feature map; for several maps a tuple of widths, from shallow to deep.
        image_size: Height and width in pixels of the tiles that the encoder is built for.
    """

    hidden_size: int | tuple[int, ...]
    image_size: int

    @abstractmethod
    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the primary map for tiles of this height and width."""

    @abstractmethod
    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]`, or ids of an image tokenizer, as maps `[N, rows*columns, width]`.

        The features have the `context` and the `valid_hw` of the images.
        """

    def blank(self, device: torch.device | str) -> ImageBatch:
        """Returns the one tile that is encoded where a pack without images has to run the encoder.

        The default is a tile of zeros with sides of `image_size` pixels. Encoders of other images override this: those
        of ids return `vq_ids`, and an encoder whose merger is conditioned on the images adds a `context`.
        """
        pixels = torch.zeros(1, 3, self.image_size, self.image_size, device=device)
        return ImageBatch(pixels, torch.zeros(1, dtype=torch.long, device=device))

    def planned_tile(self, device: torch.device | str) -> ImageBatch:
        """Returns the tile that memory and FLOPs are planned for, as the data gives it. Default: that of `blank`."""
        return self.blank(device)

    def pixels_of(self, images: ImageBatch) -> Tensor:
        """Returns the pixels `[N, 3, H, W]` of images, for encoders that need them.

        Raises:
            TypeError: They are no tensor.
            ValueError: The images are ids of an image tokenizer, or the pixels are integers.
        """
        if images.pixels is None:
            raise ValueError(
                f"{type(self).__name__} encodes pixels, and the images are ids of an image tokenizer (vq_ids)"
            )
        return images.require_pixels()


def repeated(image: ImageBatch, tiles: int) -> ImageBatch:
    """Returns an image of one tile several times, as views that take no memory; each tile is an image of its own."""
    values: dict[str, Any] = {field.name: getattr(image, field.name) for field in fields(image)}
    for name, value in values.items():
        values[name] = None if value is None else value[:1].expand(tiles, *value.shape[1:])
    return replace(image, **values | {"tile_image": torch.arange(tiles, device=image.tile_image.device)})


def patch_grid(pixel_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns the rows and columns of square patches in a tile of this height and width.

    Raises:
        WiringError: The tile size is not a multiple of the patch size.
    """
    height, width = pixel_hw
    if height % patch_size or width % patch_size:
        raise WiringError(
            f"a tile of {height} x {width} pixels is not a multiple of the patch size {patch_size} (in a recipe: of"
            " data.images.tile_size pixels, without longest_side or an augmentation that changes their size)"
        )
    return height // patch_size, width // patch_size
