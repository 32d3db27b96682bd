"""Untrusted text, such as answers, sample keys and file names, made safe for a terminal.

Characters that control a terminal, or that change the direction or the look of the text around them, are made visible.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import groupby

_HARMLESS = "\n\t\u200c\u200d"
"""Line breaks, and the joiners that Persian script and emoji need."""
_ODD = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def odd_marks(text: str) -> Iterator[tuple[str, str]]:
    """Splits a text at characters that are invisible or change the text around them.

    Yields:
        (text, "") for ordinary text, and such as ("U+202E", "RIGHT-TO-LEFT OVERRIDE") for each other character.
    """
    for odd, found in groupby(text, _is_odd):
        letters = "".join(found)
        if not odd:
            yield letters, ""
            continue
        for letter in letters:
            yield f"U+{ord(letter):04X}", unicodedata.name(letter, "control character")


def plain_line(text: str) -> str:
    """Returns a text in one line that is safe for a terminal: invisible characters are spelled out."""
    marked = "".join(f"<{part}>" if name else part for part, name in odd_marks(text))
    return marked.replace("\n", " ").replace("\t", " ")


def plain_lines(text: str) -> str:
    """Returns a text of any number of lines that is safe for a terminal: invisible characters become U+FFFD.

    Each character is treated alone, so that a text may be passed piece by piece.
    """
    return "".join("\ufffd" if _is_odd(letter) else letter for letter in text)


def _is_odd(letter: str) -> bool:
    return unicodedata.category(letter) in _ODD and letter not in _HARMLESS
