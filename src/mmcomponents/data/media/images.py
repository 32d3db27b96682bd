"""Loading of image files, Pillow images and arrays as upright RGB images, and normalization of tiles."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.png_chunks import pixels_alone
from mmcomponents.data.media.rgb import array_to_image, to_rgb
from mmcomponents.data.storage.regular_file import open_regular

MAX_PIXELS = 64_000_000
"""Maximum number of pixels of an image: a few larger ones in one pack would exhaust a worker's memory."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Supported formats. Some of Pillow's other readers start external programs (EPS) or decode an image before its size
can be checked (ICO, ICNS)."""

ImageSource: TypeAlias = "Image.Image | str | Path | bytes | np.ndarray[Any, Any] | Tensor"
"""A Pillow image, the path or the bytes of a file, or an array as accepted by `array_to_image`."""

Normalization = Literal["imagenet", "clip", "siglip"]

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of each channel by name, for pixels between 0 and 1."""

_ORIENTATION = 0x0112
_TIFF_TILE = (322, 323)  # width and height of a tile
_SIDEWAYS = (5, 6, 7, 8)
_STILL = ("JPEG", "PNG")
_SMALL = 16_384
"""Maximum number of pixels of a tile for which all tiles are normalized together. For larger tiles, extracting single
channels by Pillow is faster than strided copies, and each plane stays in the processor's cache."""
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
    """An image is broken, truncated, of an unknown format or too large."""


@cache
def _formats() -> list[str]:
    """Returns the supported formats of this build of Pillow; JPEG includes MPO."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"an image of {width}x{height} has no pixels")
    if width * height > max_pixels:
        raise ImageError(f"image too large: {width}x{height} is more than {max_pixels} pixels")


def _open(file: IO[bytes], length: int, max_pixels: int) -> Image.Image:
    """Opens a file and checks the size in its header, without decoding.

    A PNG file with more texts or a larger colour profile than Pillow reads is opened without them.
    """
    try:
        image = _pillow(file)
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: {error}") from error
    except Exception as error:  # Pillow's readers raise many types: of zlib, of struct, IndexError …
        file.seek(0)
        alone = pixels_alone(file.read())
        try:
            if alone is None:
                raise error
            image = _pillow(io.BytesIO(alone))
        except Exception as second:
            raise ImageError(f"not an image: {length} bytes of no known format, or a broken header") from second
    _check_size(image.width, image.height, max_pixels)
    if image.format == "TIFF":
        _check_tiff_tiles(image, max_pixels)
    return image


def _pillow(file: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the caller checks the size
        return Image.open(file, formats=_formats())


def check_pixels(data: bytes) -> str:
    """Decodes an image file with a valid header as a check, and returns its format.

    Raises:
        ImageError: The image is truncated or damaged.
    """
    image = _open(io.BytesIO(data), len(data), MAX_PIXELS)
    kind = image.format or ""
    if kind not in ("JPEG", "MPO"):
        if kind != "PNG":  # already decoded for its size, since its orientation may be stored after the pixels
            decode_image(data)
        return kind
    # Decoding at an eighth of the size reads the complete file and finds all faults, in half the time.
    image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
    try:
        image.load()
    except Exception as error:  # as in `_open`
        raise ImageError(f"broken image: {error}") from error
    return kind


def _check_tiff_tiles(image: Image.Image, max_pixels: int) -> None:
    """Rejects TIFF files with huge tiles: the decoder allocates a complete tile, however small the image is."""
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
    """Returns the EXIF orientation; 1 (upright) if the EXIF data are missing or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data are common and do not affect the pixels
        return 1


def exif_orientation(data: bytes) -> int:
    """Returns the EXIF orientation of an image file, 1 to 8; 1 (upright) if there is none.

    Raises:
        ImageError: The file is not an image.
    """
    found = _orientation(_open(io.BytesIO(data), len(data), MAX_PIXELS))
    return found if found in _TURNS else 1


def _plain(image: Image.Image) -> bool:
    """Whether an image is a single RGB image without transparency."""
    return image.mode == "RGB" and not image.has_transparency_data and not getattr(image, "is_animated", False)


def _upright(image: Image.Image, ours: bool = False) -> Image.Image:
    """Rotates an image upright and converts it to RGB; `ours`: it has no other users, and may be returned itself."""
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        if ours and turn is None and image.format in _STILL and _plain(image):
            image.info = {}  # as in `to_rgb`
            return image
        rgb = to_rgb(image)
    except Exception as error:  # as in `_open`
        raise ImageError(f"broken image: {error}") from error
    return rgb if turn is None else rgb.transpose(turn)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image file to RGB, rotated upright by its EXIF orientation; see `to_rgb` for other modes.

    Returns the first frame of an animation.

    Args:
        data: Contents of the file.
        max_pixels: Maximum width times height, checked before decoding. Pillow's limit of twice
            `PIL.Image.MAX_IMAGE_PIXELS` applies as well.

    Raises:
        ImageError: The image is broken, truncated or too large.
    """
    return _upright(_open(io.BytesIO(data), len(data), max_pixels), ours=True)


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns an upright RGB image from any source; an upright RGB image is returned unchanged.

    A Pillow image is treated like its file: rotated by its EXIF orientation, with transparency over white. The function
    is idempotent.

    Args:
        source: A Pillow image (the current frame of an animation), the path or the bytes of a file, or an array or
            tensor, see `array_to_image`.
        max_pixels: See `decode_image`.

    Raises:
        ImageError: The file is missing; the image is broken, truncated or too large; the array is not an image.
        TypeError: The source has another type.
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
        with open_regular(path) as file:
            return _upright(_open(file, os.fstat(file.fileno()).st_size, max_pixels), ours=True)
    except FileNotFoundError:
        raise ImageError(f"there is no image file {path}") from None
    except OSError as error:
        raise ImageError(f"the image file {path} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def image_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (width, height) of `decode_image`, usually from the header alone.

    Raises:
        ImageError: The header is broken, or the image too large.
    """
    image = _open(io.BytesIO(data), len(data), max_pixels)
    if image.format == "TIFF":  # Pillow has rotated the size already
        return image.size
    if image.format == "PNG":  # its EXIF data may follow the pixels
        try:
            image.load()
        except Exception as error:  # as in `_open`
            raise ImageError(f"broken image: {error}") from error
    return (image.height, image.width) if _orientation(image) in _SIDEWAYS else image.size


def picture_values(image: Image.Image, side: int, name: str) -> Tensor:
    """Returns the values of a picture to be made or edited, fp32 `[3, side, side]` from -1 to 1.

    Args:
        image: Image of any mode; it is made upright and RGB.
        side: Width and height that it must have.
        name: What it is, for the error.

    Raises:
        ValueError: It has another size.
    """
    image = load_image(image)
    if image.size != (side, side):
        found, made = f"{image.width} x {image.height}", f"{side} x {side}"
        raise ValueError(f"{name} has {found} pixels, and pictures are made with {made} (picture_size)")
    return torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)


def pixels(tiles: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns normalized pixels, fp32 `[n, 3, H, W]`: `(value / 255 - mean) / std`, to within 1e-6.

    Args:
        tiles: At least one RGB image, all of the same size.
        mean: Mean of each channel, between 0 and 1.
        std: Standard deviation of each channel.
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


def from_normalized(tiles: Tensor, name: Normalization) -> Tensor:
    """Returns the pixels of normalized tiles, from -1 to 1.

    Args:
        tiles: `[..., 3, H, W]`.
        name: Normalization of the tiles.

    Returns:
        `[..., 3, H, W]`.
    """
    mean, std = (tiles.new_tensor(values)[:, None, None] for values in NORMALIZATIONS[name])
    return (2 * (tiles * std + mean) - 1).clamp(-1, 1)


def to_images(pictures: Tensor) -> list[Image.Image]:
    """Returns pictures `[N, 3, H, W]`, from -1 to 1, as images of 8 bits."""
    levels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(picture) for picture in levels.permute(0, 2, 3, 1).cpu().numpy()]


@dataclass(eq=False)
class TiledImage:
    """An image as input of the encoder. Samples that hold the same object share its visual tokens.

    Attributes:
        pixels: `[n, 3, H, W]` fp32 tiles; None for an image of `vq_ids`.
        delta_log2: V2PE's k for this image; None: the default of the position module.
        vq_ids: `[n, h, w]` int64 ids of an image tokenizer; None for an image of pixels.
        visual_tokens: Number of its visual tokens; None: as many for each tile as the run has set.
        valid_hw: Height and width of the part of each tile that is not padding; None: all of it.
        size: Width and height of the upright image before it was resized and cut; None: unknown.
    """

    pixels: Tensor | None
    delta_log2: int | None = None
    vq_ids: Tensor | None = None
    visual_tokens: int | None = None
    valid_hw: tuple[int, int] | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.vq_ids is None):
            raise ValueError(f"an image has pixels or vq_ids, got {'neither' if self.pixels is None else 'both'}")
        if self.vq_ids is not None and (self.vq_ids.dtype != torch.int64 or self.vq_ids.ndim != 3):
            raise ValueError(f"vq_ids must be int64 of [n, h, w], not {self.vq_ids.dtype} of {list(self.vq_ids.shape)}")
        if self.visual_tokens is not None and (self.visual_tokens < 0 or self.visual_tokens % max(self.num_tiles, 1)):
            raise ValueError(f"{self.visual_tokens} visual tokens of {self.num_tiles} tiles: each has the same number")
        found = self.vq_ids if self.pixels is None else self.pixels
        if self.valid_hw is not None and found is not None:
            (height, width), (most_h, most_w) = self.valid_hw, found.shape[-2:]
            if not (0 < height <= most_h and 0 < width <= most_w):
                raise ValueError(f"valid_hw {self.valid_hw} is not within tiles of {most_h} x {most_w}")

    @classmethod
    def of_tiles(cls, count: int, size: tuple[int, int] | None = None) -> TiledImage:
        """Returns an image that stands for one of `count` tiles where only their number matters. It takes no memory."""
        return cls(torch.zeros(()).expand(count, 3, 1, 1), size=size)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        found = self.vq_ids if self.pixels is None else self.pixels
        assert found is not None
        return int(found.shape[0])

    def count_tokens(self, tokens_per_tile: int) -> int:
        """Returns the number of visual tokens."""
        return self.num_tiles * tokens_per_tile if self.visual_tokens is None else self.visual_tokens
