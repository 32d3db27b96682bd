"""Images of every mode, and arrays, as RGB with 8 bits a colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

_WIDE = ("I", "F")


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image of any mode as a new RGB image, without file information.

    * Transparency, of whatever kind, is laid over white. The colours under transparent pixels are arbitrary (most
      programs leave black there), so to drop the alpha channel would show what nobody drew.
    * 16-bit grey (`I;16` and its kin, and `I` with values of 16 bits) keeps its range: 65535 becomes 255. `I` with
      other values is stretched, its least value to black and its largest to white.
    * `F` is taken as fractions of white if all values lie between 0 and 1, as grey levels if they lie between 0 and
      255, and is stretched otherwise. Values that are no numbers become black.
    * The inks of a CMYK JPEG are inverted only where it says that Adobe wrote it. Colour profiles are not applied.

    Raises:
        ValueError: Pillow knows no way from this mode to RGB.
    """
    if image.mode in _WIDE or image.mode.startswith("I;"):
        rgb = _wide_grey(image)
    else:
        if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
            image = ImageChops.invert(image)  # only Adobe's files hold inverted inks; Pillow takes all for theirs
        if image.mode == "La":  # Pillow undoes its premultiplied alpha in a step of its own
            image = image.convert("LA")
        rgb = _over_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")
    rgb.info = {}  # a second pass must not find an orientation or a transparent colour again
    return rgb


def array_to_image(array: NDArray[np.generic]) -> Image.Image:
    """Makes an image of an array, which `to_rgb` then takes.

    Args:
        array: `[H, W]` grey, or channels last: `[H, W, 1]` grey, `[H, W, 3]` RGB, `[H, W, 4]` RGB with alpha. Bytes
            from 0 to 255, 16-bit unsigned integers from 0 to 65535, floats from 0 to 1, or truth values.

    Raises:
        ValueError: Another shape, another type, or floats outside 0 to 1.
    """
    shape = list(array.shape)
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = "; channels come last: permute(1, 2, 0)" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ValueError(f"an array of shape {shape} is no image of [H, W] or [H, W, 1 | 3 | 4]{hint}")
    if 0 in shape:
        raise ValueError(f"an array of shape {shape} has no pixels")
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_bytes(array))


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The values of an array from 0 to 255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _high_byte(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"an array of {array.dtype} is no image: give uint8, uint16, bool, or floats from 0 to 1")
    values = array.astype(np.float32)
    least, largest = float(values.min()), float(values.max())
    if not (least >= 0 and largest <= 1):  # false for NaN, too
        raise ValueError(f"an array of {array.dtype} from {least:g} to {largest:g}: floats must lie between 0 and 1")
    return (values * 255).round().astype(np.uint8)


def _high_byte(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16 bits to 8, rounded: 257 = 65535 / 255."""
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
    clear = image.info.get("transparency")  # a PNG names one grey value that is transparent
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
