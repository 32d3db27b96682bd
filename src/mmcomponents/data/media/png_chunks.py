"""PNG files without the chunks beside their pixels, which Pillow refuses when they are large."""

from __future__ import annotations

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BESIDE_PIXELS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Texts and colour profiles; the profile is not applied to any image."""


def pixels_alone(data: bytes) -> bytes | None:
    """Returns a PNG file without its texts and its colour profile; None if it has none, or is no PNG file.

    A chunk is its length (4 bytes), its type (4 bytes), its content and a checksum (4 bytes), see the PNG
    specification, section 5.3. What follows a chunk that ends beyond the file is kept, for the decoder to report.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept, position, begin, dropped = [], len(SIGNATURE), 0, False
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if kind in _BESIDE_PIXELS:
            kept.append(data[begin:position])
            begin, dropped = end, True
        position = end
    return b"".join([*kept, data[begin:]]) if dropped else None
