"""Files whose names differ from a given path only in their Unicode normalisation.

macOS writes decomposed names (NFD) into archives, and most annotations have composed ones (NFC): both look the same.
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def normalized_match(path: Path) -> Path | None:
    """Returns the path of the only file whose name equals a path except for Unicode normalisation; None: there is none.

    Args:
        path: A path that does not exist.
    """
    if str(path).isascii():
        return None
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        if not os.path.lexists(found / part):
            try:
                names = _by_composed_name(str(found), os.stat(found).st_mtime_ns).get(
                    unicodedata.normalize("NFC", part), []
                )
            except OSError:
                return None
            if len(names) != 1:
                return None
            part = names[0]
        found /= part
    return found if found.exists() else None


@lru_cache(maxsize=64)
def _by_composed_name(folder: str, changed: int) -> dict[str, list[str]]:
    """Returns the names in a folder by their composed form; `changed`, its time of change, is part of the cache key."""
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return names
