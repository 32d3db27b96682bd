"""Tests that images are decoded during the conversion, since faults may follow a valid header."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.convert.media_files import MediaRoot, video_suffix
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.format.shards import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mmcomponents.data.media.images import ImageError, decode_image

from .conftest import picture


def photo(size: tuple[int, int] = (96, 80)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "baseline.jpg": encoded("JPEG", photo()),
    "progressive.jpg": encoded("JPEG", photo(), progressive=True),
    "grey.jpg": encoded("JPEG", photo().convert("L")),
    "inks.jpg": encoded("JPEG", photo().convert("CMYK")),
    "tiny.jpg": encoded("JPEG", photo((3, 5))),
    "two.mpo": encoded("MPO", photo(), save_all=True, append_images=[photo()]),
    "a.png": encoded("PNG", photo()),
    "a.webp": encoded("WEBP", photo()),
    "a.gif": encoded("GIF", photo()),
    "a.bmp": encoded("BMP", photo()),
    "a.tiff": encoded("TIFF", photo(), compression="tiff_lzw"),
}


def judged(read: Callable[[], Any]) -> bool:
    try:
        read()
    except (ImageError, Refused):
        return False
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about damaged TIFFs
@pytest.mark.parametrize("name", FILES)
def test_an_image_is_packed_if_a_run_can_decode_it(name: str, tmp_path: Path) -> None:
    whole, root = FILES[name], MediaRoot(tmp_path)
    verdicts = set()
    lengths = [len(whole) - cut for cut in (0, 1, 2, 3, 20, len(whole) // 10, len(whole) // 2)]
    damaged = [whole[:place] + b"\x5a\xa5\xff" + whole[place + 3 :] for place in range(200, len(whole) - 9, 997)]
    for data in [whole[:length] for length in lengths] + damaged:
        (tmp_path / name).write_bytes(data)
        fine = judged(lambda: root.image(name))
        assert fine == judged(lambda data=data: decode_image(data))  # type: ignore[misc]
        verdicts.add(fine)
    assert verdicts == {True, False}


def test_the_size_is_that_of_the_whole_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", photo(), exif=exif))
    assert MediaRoot(tmp_path).image("a.jpg").size == (80, 96)


def test_a_truncated_image_is_refused_with_its_sample(pack_lines: Callable[..., Any], media: Path) -> None:
    for name, kind in (("cut.jpg", "JPEG"), ("cut.webp", "WEBP"), ("cut.gif", "GIF")):
        data = picture(kind, (900, 450))
        (media / name).write_bytes(data[: len(data) * 3 // 4])
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    names = ["cut.jpg", "two.jpg", "cut.webp", "cut.gif"]
    note, _ = pack_lines([{"image": name, "conversations": turns} for name in names])
    assert [(refusal["line"], refusal["code"]) for refusal in note.refused] == [
        (1, "broken_image"), (3, "broken_image"), (4, "broken_image")
    ]  # fmt: skip
    assert note.refused[0]["reason"].startswith("'cut.jpg': broken image: image file is truncated")


@pytest.mark.parametrize(
    ("name", "head", "suffix"),
    [
        ("clip.wmv", "3026b2758e66cf11a6d900aa0062ce6c", "wmv"),
        ("clip.asf", "3026b2758e66cf11a6d900aa0062ce6c", "asf"),
        ("clip", "3026b2758e66cf11a6d900aa0062ce6c", "wmv"),
        ("clip.gif", "474946383961", "gifv"),
    ],
)
def test_videos_of_windows_media_and_gif_are_known_by_their_first_bytes(name: str, head: str, suffix: str) -> None:
    assert video_suffix(bytes.fromhex(head) + bytes(64), Path(name).suffix.removeprefix(".")) == suffix
    assert suffix in VIDEO_SUFFIXES
    assert suffix not in IMAGE_SUFFIXES
