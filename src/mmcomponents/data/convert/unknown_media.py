"""Detection of media under keys that no reader knows; such samples are skipped, since their media would be lost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.refused import Refused

_MEDIA_WORD = re.compile(r"image|img|picture|photo|video|frame|audio|sound|speech|media", re.I)
_FILE_WORD = re.compile(r"file|path|url", re.I)
_MEDIA_FILE = re.compile(
    r"\.(?:png|jpe?g|webp|bmp|gif|tiff?|ppm|avif|jp2|heic|svg|mp4|webm|mkv|avi|mov|m4v|mpe?g|flv|ogv|wmv"
    r"|wav|mp3|flac|ogg|m4a|aac|pdf|npy|npz)$",
    re.I,
)
_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*;base64,", re.I)
_ADDRESS = re.compile("^https?://", re.I)


def refuse_other_media(kept: Mapping[str, Any], draft: Draft, files: bool = True) -> None:
    """Raises `Refused` for a sample that would lose media, since their key is unknown.

    Args:
        kept: Keys and values to check.
        draft: The sample.
        files: Whether a key with a word for a file or URL may mean media. In documents it mostly gives the origin of
            the text.
    """
    known = {path.rpartition("/")[2] for path in draft.images + draft.videos}
    for key, value in kept.items():
        is_media = bool(_MEDIA_WORD.search(key))
        is_file = is_media or (files and bool(_FILE_WORD.search(key)))
        for text in _texts(value):
            if text.rpartition("/")[2] in known:
                continue
            is_path = is_file and (_MEDIA_FILE.search(text) or (is_media and _ADDRESS.search(text)))
            if is_path or _DATA.match(text):
                raise Refused("unknown_media", f"the unknown key {key!r} seems to give media: {text[:80]!r}")


def _texts(value: object) -> Iterator[str]:
    """Yields the texts of a value, of its elements, and of their files."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            one = next((one[name] for name in ("url", "path", "bytes") if isinstance(one.get(name), str)), None)
        if isinstance(one, str):
            yield one
