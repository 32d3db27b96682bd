"""Files whose names differ from a given path only in their Unicode normalisation.

macOS writes decomposed names (NFD) into archives, and most annotations have composed ones (NFC): both look the same.
"""

from __future__ import annotations

import os
import unicodedata
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
            wanted = unicodedata.normalize("NFC", part)
            try:
                names = [name for name in os.listdir(found) if unicodedata.normalize("NFC", name) == wanted]
            except OSError:
                return None
            if len(names) != 1:
                return None
            part = names[0]
        found /= part
    return found
