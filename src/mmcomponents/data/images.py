"""From the bytes of an image file to RGB images, and from tiles to normalised pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmcomponents.data.errors import SampleError

MAX_PIXELS = 64_000_000
"""Larger images are refused: a few of them in one pack would fill the memory of a worker."""

Normalization = Literal["imagenet", "clip", "siglip"]

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of each colour, for pixels between 0 and 1, by name."""

_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class ImageError(SampleError):
    """An image that is broken, truncated, of an unknown format or too large."""


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: {error}") from error
    except Exception as error:  # Pillow's readers let many kinds through: of zlib, of struct, IndexError …
        raise ImageError(f"not an image: {len(data)} bytes of no known format, or a broken header") from error
    if image.width * image.height > max_pixels:
        raise ImageError(f"image too large: {image.width}x{image.height} is more than {max_pixels} pixels")
    return image


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image file to RGB, turned upright as its EXIF orientation says.

    Args:
        data: The file.
        max_pixels: Width times height above which an image is refused before it is decoded.

    Raises:
        ImageError: The image is broken, truncated or too large.
    """
    image = _open(data, max_pixels)
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # as above
        raise ImageError(f"broken image: {error}") from error


def image_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (width, height) that `decode_image` would give, mostly from the header alone.

    Raises:
        ImageError: The header is broken, or the image too large.
    """
    image = _open(data, max_pixels)
    try:
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except Exception as error:  # as above
        raise ImageError(f"broken image: {error}") from error
    return (image.height, image.width) if sideways else (image.width, image.height)


def pixels(tiles: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns normalised pixels, fp32 `[n, 3, H, W]`.

    Args:
        tiles: RGB images of one size.
        mean: Of each colour, between 0 and 1.
        std: Of each colour.
    """
    values = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles]))
    values = values.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return values.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))
