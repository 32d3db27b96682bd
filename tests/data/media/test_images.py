from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.conftest import png
from mmcomponents.data.media.images import (
    NORMALIZATIONS,
    ImageError,
    check_pixels,
    decode_image,
    image_size,
    load_image,
    pixels,
)
from mmcomponents.data.media.png_chunks import pixels_alone


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(depth: int, colour: int, width: int, height: int, rows: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + end


def png16(values: np.ndarray, colour: int, *more: bytes) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_of(16, colour, values.shape[1], values.shape[0], rows, *more)


TURNED = {  # how a picture [[0, 1, 2], [3, 4, 5]] is shown for each orientation
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[2, 5], [1, 4], [0, 3]],
}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_and_measured(kind: str, orientation: int) -> None:
    blocks = np.kron(np.array(TURNED[1], np.uint8) * 50, np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": {"lossless": True}, "avif": {"quality": 100}, "jpeg": {"quality": 100}}.get(kind, {})
    data = saved(Image.fromarray(blocks).convert("RGB"), kind, exif=exif, **lossless)
    turned = decode_image(data)
    shown = np.round(np.asarray(turned)[8::16, 8::16, 0] / 50).astype(int).tolist()
    assert shown == TURNED[orientation]
    assert turned.size == image_size(data)
    opened = load_image(Image.open(io.BytesIO(data)))
    assert np.array_equal(opened, turned)
    assert np.array_equal(load_image(opened), turned), "not turned a second time"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_do_not_cost_the_image() -> None:
    image = Image.new("RGB", (20, 10), (10, 200, 30))
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"):
        data = saved(image, "jpeg", exif=exif)
        assert decode_image(data).size == image_size(data) == (20, 10)


def test_palettes() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    for kind in ("png", "gif", "bmp", "tiff"):
        assert list(decode_image(saved(image, kind)).get_flattened_data()) == [red, green, blue], kind
    for kind in ("png", "gif"):
        assert list(decode_image(saved(image, kind, transparency=1)).get_flattened_data()) == [red, white, blue], kind
    half = decode_image(saved(image, "png", transparency=bytes([255, 0, 128])))
    assert list(half.get_flattened_data()) == [red, white, (127, 127, 255)]


def test_transparency_lies_over_white() -> None:
    rgba = np.array([[[9, 9, 9, 0], [9, 9, 9, 255], [0, 100, 255, 51]]], np.uint8)
    expected = [[[255, 255, 255], [9, 9, 9], [204, 224, 255]]]
    for kind, options in (("png", {}), ("webp", {"lossless": True, "exact": True}), ("tiff", {})):
        assert np.asarray(decode_image(saved(Image.fromarray(rgba), kind, **options))).tolist() == expected
    assert np.asarray(load_image(Image.fromarray(rgba))).tolist() == expected
    assert np.asarray(load_image(rgba)).tolist() == expected
    grey = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    assert load_image(grey).getpixel((0, 0)) == decode_image(saved(grey, "png")).getpixel((0, 0)) == (224, 224, 224)
    assert load_image(grey.convert("La")).getpixel((0, 0)) == (224, 224, 224)
    clear = saved(Image.fromarray(rgba[:, :, :3]), "png", transparency=(0, 100, 255))
    assert np.asarray(decode_image(clear)).tolist() == [[[9, 9, 9], [9, 9, 9], [255, 255, 255]]]


def test_sixteen_bits_are_scaled() -> None:
    values = np.array([[0, 257, 25700, 32768, 65535]], np.uint16)
    expected = [0, 1, 100, 128, 255]
    files = [saved(Image.fromarray(values), kind) for kind in ("png", "tiff", "ppm")]
    wide = [Image.fromarray(values), Image.fromarray(values.astype(np.int32)), values]
    for source in [*files, *wide]:
        image = load_image(source)
        assert image.mode == "RGB"
        assert np.asarray(image)[0, :, 1].tolist() == expected
    clear = png16(values, 0, chunk(b"tRNS", b"\x64\x64"))  # 25700 is transparent
    assert np.asarray(decode_image(clear))[0, :, 2].tolist() == [0, 1, 255, 128, 255]
    colours = np.array([[[0, 32768, 65535], [257, 60000, 25700]]], np.uint16)
    shown = np.asarray(decode_image(png16(colours, 2))).astype(int)
    assert np.abs(shown - [[[0, 128, 255], [1, 233, 100]]]).max() <= 1
    alpha = png16(np.array([[[0, 0, 0, 0], [65535, 0, 0, 65535]]], np.uint16), 6)
    assert np.asarray(decode_image(alpha)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_integers_and_floats_of_any_range() -> None:
    def grey(values: list[float], kind: type) -> list[int]:
        image = Image.fromarray(np.array([values], kind))
        shown = np.asarray(load_image(image))[0, :, 0].tolist()
        assert np.asarray(decode_image(saved(image, "tiff")))[0, :, 0].tolist() == shown
        return shown

    assert grey([-100_000, 0, 100_000], np.int32) == [0, 128, 255]
    assert grey([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert grey([0.0, 100.0, 255.0], np.float32) == [0, 100, 255]
    assert grey([-1.0, 0.0, 1.0], np.float32) == [0, 128, 255]
    assert grey([1000.0, 2000.0, 3000.0], np.float32) == [0, 128, 255]
    assert grey([float("nan"), 1.0, 0.2], np.float32) == [0, 255, 51]
    assert grey([float("nan"), float("inf"), 500.0, 300.0], np.float32) == [0, 0, 255, 0]
    assert grey([float("nan")], np.float32) == [0]
    assert grey([-7.0, -7.0], np.float32) == [0, 0]


def test_inks() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    adobe = saved(ink, "jpeg", quality=95)
    assert b"Adobe" in adobe, "Pillow writes the inverted values that Adobe's programs do"
    plain = adobe.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xee\x00\x0eOther", 1)
    assert max(abs(a - b) for a, b in zip(decode_image(adobe).getpixel((8, 8)), (255, 0, 0), strict=True)) <= 3
    assert decode_image(plain).getpixel((8, 8)) == (0, 0, 0), "read without Adobe's sign: full cyan and black, 255"
    assert decode_image(saved(ink, "tiff")).getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.parametrize(("kind", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tiff", {})])
def test_the_first_frame_of_an_animation(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert decode_image(data).getpixel((4, 3)) == (255, 0, 0)
    opened = Image.open(io.BytesIO(data))
    opened.seek(2)
    assert load_image(opened).getpixel((4, 3)) == (0, 0, 255), "a user may have looked for another"


def test_two_colours_and_progressive_files() -> None:
    bits = Image.fromarray(np.array([[True, False], [False, True]]))
    for kind in ("png", "bmp", "tiff", "ppm"):
        assert np.asarray(decode_image(saved(bits, kind)))[:, :, 0].tolist() == [[255, 0], [0, 255]]
    smooth = Image.linear_gradient("L").convert("RGB")
    progressive = decode_image(saved(smooth, "jpeg", progressive=True, quality=95))
    assert np.abs(np.asarray(progressive).astype(int) - np.asarray(smooth)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    assert load_image(image).mode == "RGB"
    assert load_image(image).size == (3, 2)
    assert image.mode == mode


def test_arrays_and_tensors(tmp_path: Path) -> None:
    colours = noise(5, 7, 3)
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.fromarray(colours), "png"))
    for source in (
        colours,
        torch.from_numpy(colours),
        colours / 255,
        (colours / 255).astype(np.float32),
        torch.from_numpy(colours).permute(2, 0, 1).contiguous().permute(1, 2, 0),
        torch.from_numpy(colours.astype(np.float32) / 255).requires_grad_(),
        path,
        str(path),
        path.read_bytes(),
        memoryview(path.read_bytes()),
        Image.open(path),
    ):
        assert np.array_equal(load_image(source), colours)  # type: ignore[arg-type]
    for grey in (colours[:, :, 0], colours[:, :, :1]):
        assert np.array_equal(np.asarray(load_image(grey)), np.repeat(colours[:, :, :1], 3, 2))
    assert np.asarray(load_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    assert np.asarray(load_image(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 40, 60), np.uint8), r"\[3, 40, 60\].*channels come last"),
        (np.zeros((4, 6, 2), np.uint8), r"\[4, 6, 2\]"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"\[1, 4, 6, 3\]"),
        (np.zeros(5, np.uint8), r"\[5\]"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 6), np.int64), "int64.*uint8"),
        (np.array([[0.0, 255.0]]), "from 0 to 255: floats must be between 0 and 1"),
        (np.array([[-0.1, 1.0]]), "floats must be between"),
        (np.array([[0.1, np.nan]]), "floats must be between"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)
    with pytest.raises(ImageError, match=message):
        load_image(torch.from_numpy(array))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not list"):
        load_image([[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"there is no image file .*nothing\.png"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"a\.png: not an image: 5 bytes"):
        load_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="0x3 has no pixels"):
        load_image(Image.new("RGB", (0, 3)))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="not an image"):
        decode_image(script)


def test_broken_images_are_refused() -> None:
    data = png(40, 40)
    with pytest.raises(ImageError, match="not an image: 5 bytes"):
        decode_image(b"hello")
    with pytest.raises(ImageError, match="not an image"):
        image_size(b"")
    with pytest.raises(ImageError, match="broken image"):
        decode_image(data[: len(data) // 2])
    with pytest.raises(ImageError, match="broken image"):
        image_size(data[: len(data) // 2])
    for size in range(0, len(data) - 12, 97):
        with pytest.raises(ImageError):
            decode_image(data[:size])


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm", "avif", "jpeg2000"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), kind)
    assert decode_image(data).size == (64, 64)
    for share in (0.3, 0.6, 0.9):
        short = data[: int(len(data) * share)]
        (tmp_path / "short").write_bytes(short)
        for source in (short, tmp_path / "short"):
            with pytest.raises(ImageError):
                load_image(source)


def huge_gif(width: int, height: int) -> bytes:
    """A screen of 4x4, and a frame on it that is larger."""
    screen = b"GIF89a" + struct.pack("<HH", 4, 4) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02L\x01\0;"


@pytest.mark.parametrize(
    "data",
    [
        png_of(8, 2, 100_000, 100_000, b"\0"),
        png_of(1, 0, 30_000, 30_000, b"\0" * 100),
        png_of(8, 2, 2_000_000_000, 1, b"\0"),
        huge_gif(60_000, 60_000),
        huge_gif(9000, 9000),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6 40000 40000 255\n",
    ],
    ids=["png", "png of two colours", "png of one row", "gif", "smaller gif", "bmp", "ppm"],
)
def test_sizes_are_refused_before_decoding(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("was decoded"))
    path = tmp_path / "file"
    path.write_bytes(data)
    for call in (lambda: decode_image(data), lambda: image_size(data), lambda: load_image(path)):
        with pytest.raises(ImageError, match="image too large"):
            call()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # of Pillow's limit, our own is independent
    with pytest.raises(ImageError, match="is more than 64000000 pixels"):
        decode_image(data)
    with pytest.raises(ImageError, match="image too large"):
        load_image(Image.open(path))


def test_the_limit_counts_pixels() -> None:
    assert load_image(png(40, 40), max_pixels=1600).size == (40, 40)
    for source in (png(40, 40), noise(40, 40, 3), Image.new("L", (40, 40))):
        with pytest.raises(ImageError, match="40x40 is more than 1599 pixels"):
            load_image(source, max_pixels=1599)
    with pytest.raises(ImageError, match="40x40"):
        image_size(png(40, 40), max_pixels=1000)
    sliver = saved(Image.new("RGB", (1, 60_000), (1, 2, 3)), "png")
    assert decode_image(sliver).size == image_size(sliver) == (1, 60_000)


def test_normalised_pixels() -> None:
    tiles = [Image.new("RGB", (2, 3), colour) for colour in ((0, 128, 255), (255, 0, 0))]
    values = pixels(tiles, *NORMALIZATIONS["imagenet"])
    assert values.shape == (2, 3, 3, 2)
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor(expected))
    assert pixels(tiles, *NORMALIZATIONS["siglip"]).max() == 1


@pytest.mark.parametrize("side", [28, 448])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_pixels_are_those_of_the_formula(name: str, side: int) -> None:
    mean, std = NORMALIZATIONS[name]
    values = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    values[0].reshape(-1, 3)[:256] = np.arange(256, dtype=np.uint8)[:, None]
    exact = ((values / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    made = pixels([Image.fromarray(tile) for tile in values], mean, std)
    assert np.abs(made.numpy() - exact).max() < 5e-7
    plain = (torch.from_numpy(values).permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    assert (made - plain).abs().max() < 1e-6


def test_large_and_small_tiles_have_the_same_pixels() -> None:
    colours = noise(256, 256, 3)
    whole = pixels([Image.fromarray(colours)], *NORMALIZATIONS["clip"])
    quarters = [Image.fromarray(part) for half in np.split(colours, 2) for part in np.split(half, 2, axis=1)]
    four = pixels(quarters, *NORMALIZATIONS["clip"]).view(2, 2, 3, 128, 128)
    assert torch.equal(four.permute(2, 0, 3, 1, 4).reshape(1, 3, 256, 256), whole)
    wide = pixels([Image.fromarray(colours[:200])], *NORMALIZATIONS["clip"])
    assert torch.equal(wide, whole[:, :, :200])


def test_an_image_is_not_copied_without_need() -> None:
    for kind in ("jpeg", "png"):
        data = saved(Image.fromarray(noise(20, 30, 3)), kind, dpi=(72, 72))
        image = decode_image(data)
        assert (image.mode, image.info) == ("RGB", {})
        again = load_image(image)
        assert np.array_equal(again, image)
        assert load_image(again) is again
    turned = Image.new("RGB", (20, 10))
    turned.getexif()[0x0112] = 6
    assert load_image(turned).size == (10, 20)
    clear = Image.new("RGB", (2, 2), (1, 2, 3))
    clear.info["transparency"] = (1, 2, 3)
    assert load_image(clear).getpixel((0, 0)) == (255, 255, 255)
    assert clear.info, "what a user holds stays as it was"


@pytest.mark.parametrize(
    ("side", "told"),
    [(32768, "32768x32768 is more than"), (0, "no pixels"), (None, "TIFF tiles|not an image|no pixels")],
)
def test_the_tiles_of_a_tiff_have_the_limit_of_an_image(side: int | None, told: str) -> None:
    tags = {322: 16, 323: 16} if side is None else {322: side, 323: side}
    values = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1), *tags.items(), (324, 8), (325, 256)]
    if side is None:
        values = [value for value in values if value[0] != 323]  # a width without a height
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    data = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(values)) + rows + bytes(4)
    for call in (decode_image, image_size):
        with pytest.raises(ImageError, match=told):
            call(data + bytes(256))


LARGE = zlib.compress(b"x" * 2_000_000)


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"zTXt", b"key\0\0" + LARGE),
        chunk(b"iTXt", b"key\0\1\0\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"zTXt", b"key\0\0" + zlib.compress(b"x" * 900_000)) * 80,
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
def test_a_picture_with_much_text_or_a_large_profile_is_read_without_it(beside: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (10, 20, 30)).save(file, "PNG")
    data = file.getvalue()
    with_text = data[:33] + beside + data[33:]  # behind the header
    assert pixels_alone(with_text) == data
    assert pixels_alone(data) is pixels_alone(b"no picture") is None
    assert decode_image(with_text).tobytes() == decode_image(data).tobytes()
    assert image_size(with_text) == (6, 4)
    assert check_pixels(with_text) == "PNG"
    with pytest.raises(ImageError, match="broken image"):
        image_size(with_text[:-30])
