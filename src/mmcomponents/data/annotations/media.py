"""Images and videos that annotations name: found below a root, read as they are, and checked by their contents."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image

from mmcomponents.data.annotations.draft import Clip
from mmcomponents.data.annotations.refused import Refused
from mmcomponents.data.frames import MiddleFrames
from mmcomponents.data.images import ImageError, decode_image, image_size
from mmcomponents.data.shards import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mmcomponents.data.video import VideoError, read_video

MAX_BYTES = 2_000_000_000
"""Of one file of media: a worker holds those of a sample in memory."""

_IMAGE_FORMATS = {  # Pillow's name of a format -> suffix
    "PNG": "png",
    "JPEG": "jpg",
    "MPO": "jpg",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "PPM": "ppm",
    "AVIF": "avif",
    "JPEG2000": "jp2",
}
_JPEG = ("JPEG", "MPO")
_ADDRESS = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):(?=//)|^(data):", re.ASCII)
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


@dataclass(frozen=True)
class MediaFile:
    """The bytes of a file of media.

    Attributes:
        suffix: Of its real format, whatever its name says.
        data: As they are in the file.
        size: Width and height of an image, upright; (0, 0) for a video.
    """

    suffix: str
    data: bytes
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class MediaRoot:
    """The folder that the paths of annotations start at.

    Attributes:
        root: The folder.
        allow_outside: Whether paths may leave it, by `..`, from `/` on or through links.
    """

    root: Path
    allow_outside: bool = False

    def image(self, where: str) -> MediaFile:
        """Reads an image, and decodes it.

        Raises:
            Refused: It is not there, outside the root, or broken.
        """
        data = self._read(where)
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's on odd headers; what counts is refused
                size = image_size(data)
                kind = _decode(data)
        except (ImageError, OSError) as error:
            raise Refused("broken_image", f"{_short(where)}: {error}") from error
        suffix = _IMAGE_FORMATS.get(kind)
        if suffix not in IMAGE_SUFFIXES:
            raise Refused("broken_image", f"{_short(where)}: an image of the format {kind} cannot be put into a shard")
        return MediaFile(suffix, data, size)

    def video(self, where: str, clip: Clip | None) -> MediaFile:
        """Reads a video, and decodes one frame of its clip.

        Raises:
            Refused: It is not there, outside the root, broken, or has no frame in the clip.
        """
        data = self._read(where)
        suffix = video_suffix(data, Path(where).suffix.lower().removeprefix("."))
        if suffix not in VIDEO_SUFFIXES:
            raise Refused("broken_video", f"{_short(where)}: no video of a format that shards hold")
        try:
            read_video(data, MiddleFrames(1), None if clip is None else (clip[0], clip[1]))
        except VideoError as error:
            raise Refused("broken_video", f"{_short(where)}: {error}") from error
        return MediaFile(suffix, data)

    def _read(self, where: str) -> bytes:
        address = _ADDRESS.match(where)
        if address and address.group(2):
            return _data_url(where)
        if address and address.group(1).lower() == "file":
            where = unquote(where[len("file://") :])
        elif address:
            raise Refused("web_address", f"{_short(where)}: nothing is fetched; download it and name the file")
        return self._read_file(where)

    def _read_file(self, where: str) -> bytes:
        try:
            path = (self.root / where).resolve(strict=True)
            if not self.allow_outside and not path.is_relative_to(self.root.resolve()):
                raise Refused("outside_root", f"{_short(where)} leaves the root {_short(str(self.root))}")
            with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise Refused("missing_file", f"{_short(where)} is no file")
                if not 0 < facts.st_size <= MAX_BYTES:
                    raise Refused("media_size", f"{_short(where)} has {facts.st_size} bytes, not 1 to {MAX_BYTES}")
                return file.read()
        except FileNotFoundError:
            self._refuse_escape(where)
            raise Refused(
                "missing_file", f"there is no file {_short(where)} below the root {_short(str(self.root))}"
            ) from None
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, or a zero byte in the name
            if isinstance(error, Refused):
                raise
            reason = getattr(error, "strerror", None) or error
            raise Refused("missing_file", f"{_short(where)} cannot be read: {reason}") from error

    def _refuse_escape(self, where: str) -> None:
        """Nobody learns from a refusal what there is outside the root."""
        if not self.allow_outside and not (self.root / where).resolve().is_relative_to(self.root.resolve()):
            raise Refused("outside_root", f"{_short(where)} leaves the root {_short(str(self.root))}")


def _decode(data: bytes) -> str:
    """Format of an image whose header is fine; makes sure that the rest is, too.

    Raises:
        ImageError: It is truncated or damaged.
    """
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format or ""
        if kind not in _JPEG:
            if kind != "PNG":  # which was decoded for its size, since its orientation may stand behind the pixels
                decode_image(data)
            return kind
        # At an eighth of its size all of the file is read, and all faults are found, in half the time.
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        try:
            image.load()
        except Exception as error:  # Pillow's readers let many kinds through
            raise ImageError(f"broken image: {error}") from error
        return kind


def video_suffix(data: bytes, named: str) -> str:
    """Suffix of a video's container, by its first bytes; "" for none that is known.

    Args:
        data: The file.
        named: Suffix in its name, which is kept where the container has several.
    """
    head = data[:4096]
    if head[4:8] == b"ftyp":
        return "mov" if head[8:12] == b"qt  " else named if named in ("mp4", "m4v", "mov") else "mp4"
    if head[4:8] in _QUICKTIME_ATOMS:
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "mkv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:3] == b"FLV":
        return "flv"
    if head[:4] == b"OggS":
        return "ogv"
    if head[:4] == b"\x00\x00\x01\xba":
        return "mpeg" if named == "mpeg" else "mpg"
    if head[:1] == b"G" and data[188:189] == b"G":
        return "ts"
    return "gif" if head[:4] == b"GIF8" else ""


def _data_url(where: str) -> bytes:
    head, comma, body = where.partition(",")
    if not comma:
        raise Refused("bad_data_url", f"{_short(where)} has no comma")
    if not head.endswith(";base64"):
        data = unquote_to_bytes(body)
    else:
        try:
            data = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused("bad_data_url", f"{_short(where)} is no base64: {error}") from error
    if not data:
        raise Refused("bad_data_url", f"{_short(where)} holds nothing")
    return data


def _short(where: str) -> str:
    return repr(where if len(where) <= 120 else f"{where[:100]}…")
