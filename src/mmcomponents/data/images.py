"""From image files, Pillow images and arrays to upright RGB images, and from tiles to normalised pixels."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.data.errors import SampleError
from mmcomponents.data.rgb import array_to_image, to_rgb

MAX_PIXELS = 64_000_000
"""Larger images are refused: a few of them in one pack would fill the memory of a worker."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is read. Pillow knows more, but some of its readers start other programs (EPS) or decode a whole image before
its size can be checked (ICO, ICNS)."""

ImageSource: TypeAlias = "Image.Image | str | Path | bytes | np.ndarray[Any, Any] | Tensor"
"""An image: a Pillow image, the path or the bytes of a file, or an array as `array_to_image` takes it."""

Normalization = Literal["imagenet", "clip", "siglip"]

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of each colour, for pixels between 0 and 1, by name."""

_ORIENTATION = 0x0112
_TIFF_TILE = (322, 323)  # width and height of a tile
_SIDEWAYS = (5, 6, 7, 8)
_STILL = ("JPEG", "PNG")
_SMALL = 16_384
"""Pixels up to which all tiles are normalised in a few calls. From larger ones Pillow takes the colours out one by one,
which is faster than to copy with strides, and each plane stays in the processor's cache until it is done."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(SampleError):
    """An image that is broken, truncated, of an unknown format or too large."""


@cache
def _formats() -> list[str]:
    """The formats that this build of Pillow has; JPEG brings MPO with it."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"an image of {width}x{height} has no pixels")
    if width * height > max_pixels:
        raise ImageError(f"image too large: {width}x{height} is more than {max_pixels} pixels")


def _open(file: IO[bytes], length: int, max_pixels: int) -> Image.Image:
    """Reads the header of a file and checks the size that it tells; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what it warns of is refused below
            image = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: {error}") from error
    except Exception as error:  # Pillow's readers let many kinds through: of zlib, of struct, IndexError …
        raise ImageError(f"not an image: {length} bytes of no known format, or a broken header") from error
    _check_size(image.width, image.height, max_pixels)
    if image.format == "TIFF":
        _check_tiff_tiles(image, max_pixels)
    return image


def _check_tiff_tiles(image: Image.Image, max_pixels: int) -> None:
    """Refuses a small TIFF of huge tiles: its decoder takes memory for a whole tile, however small the image is."""
    tags = getattr(image, "tag_v2", {})
    try:
        sides = [tags.get(tag) for tag in _TIFF_TILE]
    except Exception as error:  # as in `_open`
        raise ImageError("broken image: its TIFF tags cannot be read") from error
    if sides == [None, None]:
        return
    width, height = sides
    if not isinstance(width, int) or not isinstance(height, int):
        raise ImageError(f"broken image: TIFF tiles of {width} by {height}")
    try:
        _check_size(width, height, max_pixels)
    except ImageError as error:
        raise ImageError(f"TIFF tiles: {error}") from None


def _orientation(image: Image.Image) -> int:
    """How an image has to be turned; 1, upright, where its EXIF data are missing or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data are common and say nothing about the pixels
        return 1


def _plain(image: Image.Image) -> bool:
    """Whether an image is RGB already, with nothing behind the pixels that could change them."""
    return image.mode == "RGB" and not image.has_transparency_data and not getattr(image, "is_animated", False)


def _upright(image: Image.Image, ours: bool = False) -> Image.Image:
    """Turns an image and makes it RGB; one of `ours`, that nobody else holds, is not copied where it is so already."""
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        if ours and turn is None and image.format in _STILL and _plain(image):
            image.info = {}  # as below, in `to_rgb`
            return image
        rgb = to_rgb(image)
    except Exception as error:  # as above
        raise ImageError(f"broken image: {error}") from error
    return rgb if turn is None else rgb.transpose(turn)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image file to RGB, turned upright as its EXIF orientation says; see `to_rgb` for other modes.

    Of an animation, the first frame is taken.

    Args:
        data: The file.
        max_pixels: Width times height above which an image is refused before it is decoded. Pillow has a limit of its
            own, which holds too: twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        ImageError: The image is broken, truncated or too large.
    """
    return _upright(_open(io.BytesIO(data), len(data), max_pixels), ours=True)


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns an upright RGB image, whatever it is made from; one that is so already is returned itself.

    A Pillow image is treated like its file would be: turned as its EXIF orientation says, its transparency laid over
    white. An image that went through here once comes out the same a second time.

    Args:
        source: A Pillow image (of an animation, the frame that it stands at), the path or the bytes of a file, or an
            array or tensor, see `array_to_image`.
        max_pixels: See `decode_image`.

    Raises:
        ImageError: The file is missing; the image is broken, truncated or too large; the array is no image.
        TypeError: Something else was given.
    """
    if isinstance(source, Image.Image):
        _check_size(source.width, source.height, max_pixels)
        if type(source) is Image.Image and source.mode == "RGB" and not source.info and _orientation(source) == 1:
            return source
        return _upright(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source), max_pixels)
    if isinstance(source, str | os.PathLike):
        return _read(Path(source), max_pixels)
    if isinstance(source, Tensor):
        values = source.detach().cpu()
        source = (values.float() if values.is_floating_point() else values).numpy()
    if not isinstance(source, np.ndarray):
        raise TypeError(
            f"an image is a Pillow image, a path, bytes, a numpy array or a tensor, not {type(source).__name__}"
        )
    if source.ndim >= 2:
        _check_size(source.shape[1], source.shape[0], max_pixels)
    try:
        return to_rgb(array_to_image(source))
    except ValueError as error:
        raise ImageError(str(error)) from error


def _read(path: Path, max_pixels: int) -> Image.Image:
    try:
        with path.open("rb") as file:
            return _upright(_open(file, os.fstat(file.fileno()).st_size, max_pixels), ours=True)
    except FileNotFoundError:
        raise ImageError(f"there is no image file {path}") from None
    except OSError as error:
        raise ImageError(f"the image file {path} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def image_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (width, height) that `decode_image` would give, mostly from the header alone.

    Raises:
        ImageError: The header is broken, or the image too large.
    """
    image = _open(io.BytesIO(data), len(data), max_pixels)
    if image.format == "TIFF":  # Pillow has turned the size already
        return image.size
    if image.format == "PNG":  # its EXIF data may stand behind the pixels
        try:
            image.load()
        except Exception as error:  # as above
            raise ImageError(f"broken image: {error}") from error
    return (image.height, image.width) if _orientation(image) in _SIDEWAYS else image.size


def pixels(tiles: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns normalised pixels, fp32 `[n, 3, H, W]`: `(value / 255 - mean) / std`, to within 1e-6.

    Args:
        tiles: RGB images of one size, one at least.
        mean: Of each colour, between 0 and 1.
        std: Of each colour.
    """
    width, height = tiles[0].size
    values = np.empty((len(tiles), 3, height, width), np.float32)
    middle = np.array([255 * m for m in mean], np.float32)
    scale = np.array([1 / (255 * s) for s in std], np.float32)
    if width * height <= _SMALL:
        colours = np.frombuffer(b"".join([tile.tobytes() for tile in tiles]), np.uint8)
        values[:] = colours.reshape(-1, height, width, 3).transpose(0, 3, 1, 2)
        values -= middle[:, None, None]
        values *= scale[:, None, None]
        return torch.from_numpy(values)
    for tile, planes in zip(tiles, values, strict=True):
        for plane, band, m, s in zip(planes, "RGB", middle, scale, strict=True):
            plane[:] = np.frombuffer(tile.tobytes("raw", band), np.uint8).reshape(height, width)
            plane -= m
            plane *= s
    return torch.from_numpy(values)
