"""Reader of the images and videos of annotations, which checks their paths and contents."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from mmcomponents.data.convert.draft import Clip
from mmcomponents.data.convert.inputs.unicode_names import normalized_match
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.format.shards import GIF_VIDEO, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mmcomponents.data.media.frames import MiddleFrames
from mmcomponents.data.media.images import ImageError, check_pixels, exif_orientation, image_size
from mmcomponents.data.media.video import VideoError, read_video

MAX_BYTES = 2_000_000_000
"""Largest size of a media file; a worker holds all files of a sample in memory."""

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
_ADDRESS = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):(?=//)|^(data):", re.ASCII)
_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/]{200,}={0,2}\s*$")
"""An image as base64 without `data:`, by the first bytes of JPEG, PNG, GIF and WebP; a path is not so long."""
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""First object of Windows Media files."""
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


@dataclass(frozen=True)
class MediaFile:
    """Contents of a media file.

    Attributes:
        suffix: Suffix of its actual format, which the file name may not match.
        data: Bytes of the file.
        size: Width and height of an image after EXIF orientation; (0, 0) for a video.
        orientation: EXIF orientation of an image; 1: upright.
    """

    suffix: str
    data: bytes
    size: tuple[int, int] = (0, 0)
    orientation: int = 1


@dataclass(frozen=True)
class MediaRoot:
    """Folder to which the paths of annotations are relative.

    Attributes:
        root: The folder.
        allow_outside: Whether paths may leave it, by `..`, as absolute paths or through links.
    """

    root: Path
    allow_outside: bool = False

    def image(self, where: str) -> MediaFile:
        """Reads an image, and decodes it as a check.

        Raises:
            Refused: The file is missing, outside the root, or broken.
        """
        return image_file(self.read(where), _short(where))

    def video(self, where: str, clip: Clip | None) -> MediaFile:
        """Reads a video, and decodes one frame of its clip as a check.

        Raises:
            Refused: The file is missing, outside the root, or broken, or has no frame in the clip.
        """
        data = self.read(where)
        suffix = video_suffix(data, Path(where).suffix.lower().removeprefix("."))
        if suffix not in VIDEO_SUFFIXES:
            raise Refused("broken_video", f"{_short(where)}: not a video of a supported format")
        try:
            read_video(data, MiddleFrames(1), None if clip is None else (clip[0], clip[1]))
        except VideoError as error:
            raise Refused("broken_video", f"{_short(where)}: {error}") from error
        return MediaFile(suffix, data)

    def read(self, where: str) -> bytes:
        """Reads a file.

        Raises:
            Refused: The file is missing or outside the root.
        """
        if _BASE64.match(where):
            return _data_url(f"data:;base64,{where}")
        address = _ADDRESS.match(where)
        if address and address.group(2):
            return _data_url(where)
        if address and address.group(1).lower() == "file":
            where = unquote(where[len("file://") :])
        elif address:
            raise Refused("web_address", f"{_short(where)}: URLs are not fetched; download it and give the file")
        return self._read_file(where)

    def _read_file(self, where: str) -> bytes:
        try:
            path = (self.root / where).resolve(strict=True)
            if not self.allow_outside and not path.is_relative_to(self.root.resolve()):
                raise Refused("outside_root", f"{_short(where)} leaves the root {_short(str(self.root))}")
            with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise Refused("missing_file", f"{_short(where)} is not a file")
                if not 0 < facts.st_size <= MAX_BYTES:
                    raise Refused("media_size", f"{_short(where)} has {facts.st_size} bytes, not 1 to {MAX_BYTES}")
                return file.read()
        except FileNotFoundError:
            if (match := normalized_match(self.root / where)) is not None:
                return self._read_file(str(match.absolute()))
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
        """Raises for a missing file outside the root, so that the reason does not reveal which files exist there."""
        if not self.allow_outside and not (self.root / where).resolve().is_relative_to(self.root.resolve()):
            raise Refused("outside_root", f"{_short(where)} leaves the root {_short(str(self.root))}")


def image_file(data: bytes, name: str) -> MediaFile:
    """Determines the format of an image, and decodes it as a check.

    Args:
        data: Bytes of the file.
        name: Name of the image in messages.

    Raises:
        Refused: The image is broken, or its format is not supported in shards.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's about unusual headers; real faults raise
            size = image_size(data)
            kind = check_pixels(data)
            orientation = exif_orientation(data)
    except (ImageError, OSError) as error:
        raise Refused("broken_image", f"{name}: {error}") from error
    suffix = _IMAGE_FORMATS.get(kind)
    if suffix not in IMAGE_SUFFIXES:
        raise Refused("broken_image", f"{name}: images of the format {kind} are not supported in shards")
    return MediaFile(suffix, data, size, orientation)


def video_suffix(data: bytes, named: str) -> str:
    """Returns the suffix of a video's container by its first bytes; "" if unknown.

    Args:
        data: Bytes of the file.
        named: Suffix of its name, which is kept if the container has several.
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
    if head[:16] == _ASF:
        return "asf" if named == "asf" else "wmv"
    return GIF_VIDEO if head[:4] == b"GIF8" else ""


def _data_url(where: str) -> bytes:
    head, comma, body = where.partition(",")
    if not comma:
        raise Refused("bad_data_url", f"{_short(where)} has no comma")
    if not head.endswith(";base64"):
        data = unquote_to_bytes(body)
    else:
        try:
            data = base64.b64decode(body.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused("bad_data_url", f"{_short(where)} is not base64: {error}") from error
    if not data:
        raise Refused("bad_data_url", f"{_short(where)} is empty")
    return data


def _short(where: str) -> str:
    return repr(where if len(where) <= 120 else f"{where[:100]}…")
