"""Conversion of images of any mode, and of arrays, to RGB with 8 bits per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

_WIDE = ("I", "F")


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to a new RGB image without file information.

    * Transparency of any kind is composited over white. The colours of transparent pixels are arbitrary (black in most
      programs), so dropping the alpha channel would make them visible.
    * 16-bit grey (`I;16` and its variants, and `I` with 16-bit values) keeps its range: 65535 becomes 255. `I` with
      other values is stretched from its minimum, black, to its maximum, white.
    * `F` holds fractions of white if all values are between 0 and 1, grey levels if they are between 0 and 255, and is
      stretched otherwise. Non-finite values become black.
    * The inks of a CMYK JPEG are inverted only if the file is marked as written by Adobe. Colour profiles are ignored.

    Raises:
        ValueError: Pillow cannot convert this mode to RGB.
    """
    if image.mode in _WIDE or image.mode.startswith("I;"):
        rgb = _wide_grey(image)
    else:
        if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
            image = ImageChops.invert(image)  # only Adobe's files have inverted inks; Pillow assumes them for all
        if image.mode == "La":  # Pillow converts premultiplied alpha only to LA
            image = image.convert("LA")
        rgb = _over_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")
    rgb.info = {}  # a second conversion must not apply orientation or transparency again
    return rgb


def array_to_image(array: NDArray[np.generic]) -> Image.Image:
    """Converts an array to an image for `to_rgb`.

    Args:
        array: `[H, W]` grey, or channels last: `[H, W, 1]` grey, `[H, W, 3]` RGB, `[H, W, 4]` RGB with alpha. Bytes
            from 0 to 255, 16-bit unsigned integers from 0 to 65535, floats from 0 to 1, or booleans.

    Raises:
        ValueError: The shape or type is not supported, or floats are outside 0 to 1.
    """
    shape = list(array.shape)
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = "; channels come last: permute(1, 2, 0)" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ValueError(f"an array of shape {shape} is not an image of [H, W] or [H, W, 1 | 3 | 4]{hint}")
    if 0 in shape:
        raise ValueError(f"an array of shape {shape} has no pixels")
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_bytes(array))


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Returns the values of an array scaled to 0 to 255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _high_byte(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"an array of {array.dtype} is not an image: use uint8, uint16, bool, or floats from 0 to 1")
    values = array.astype(np.float32)
    least, largest = float(values.min()), float(values.max())
    if not (least >= 0 and largest <= 1):  # true for NaN as well
        raise ValueError(f"an array of {array.dtype} from {least:g} to {largest:g}: floats must be between 0 and 1")
    return (values * 255).round().astype(np.uint8)


def _high_byte(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Converts 16 bits to 8 by rounding: 257 = 65535 / 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        grey = _grey_of_floats(values)
    elif image.mode == "I" and not (values.min() >= 0 and values.max() <= 0xFFFF):
        grey = _stretched(values)
    else:
        grey = _high_byte(values)
    clear = image.info.get("transparency")  # a PNG may define one grey value as transparent
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _grey_of_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(values.shape, np.uint8)
    least, largest = values[known].min(), values[known].max()
    values = np.where(known, values, least if least < 0 or largest > 255 else 0)
    if least < 0 or largest > 255:
        return _stretched(values)
    return (values * (255 if largest <= 1 else 1)).round().astype(np.uint8)


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    wide = values.astype(np.float64)
    wide -= wide.min()
    return (wide * (255 / max(float(wide.max()), 1e-300))).round().astype(np.uint8)
