from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmcomponents.data.images import NORMALIZATIONS, ImageError, decode_image, image_size, pixels

from .conftest import png


def test_orientation_is_applied_and_measured() -> None:
    image = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for kind in ("png", "jpeg"):
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpeg" else {}))
        decoded = decode_image(buffer.getvalue())
        assert decoded.size == image_size(buffer.getvalue()) == (4, 6)
        assert np.unravel_index(np.asarray(decoded).sum(-1).argmax(), (6, 4)) == (0, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (3, 2)).save(buffer, "png")
    assert decode_image(buffer.getvalue()).mode == "RGB"
    assert image_size(buffer.getvalue()) == (3, 2)


def test_broken_images_are_refused() -> None:
    data = png(40, 40)
    with pytest.raises(ImageError, match="not an image: 5 bytes"):
        decode_image(b"hello")
    with pytest.raises(ImageError, match="not an image"):
        image_size(b"")
    with pytest.raises(ImageError, match="broken image"):
        decode_image(data[: len(data) // 2])
    for size in range(0, len(data) - 12, 97):
        with pytest.raises(ImageError):
            decode_image(data[:size])
    with pytest.raises(ImageError, match="40x40 is more than 1000 pixels"):
        decode_image(data, max_pixels=1000)
    with pytest.raises(ImageError, match="40x40"):
        image_size(data, max_pixels=1000)


def test_normalised_pixels() -> None:
    tiles = [Image.new("RGB", (2, 3), colour) for colour in ((0, 128, 255), (255, 0, 0))]
    values = pixels(tiles, *NORMALIZATIONS["imagenet"])
    assert values.shape == (2, 3, 3, 2)
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor(expected))
    assert pixels(tiles, *NORMALIZATIONS["siglip"]).max() == 1
