"""Pictures shown in the terminal itself, where it can."""

from __future__ import annotations

import base64
from collections.abc import Mapping

_CHUNK = 4096
"""Largest number of characters of a part of kitty's protocol."""

_ITERM = ("iTerm.app", "WezTerm", "mintty")
"""Values of TERM_PROGRAM of terminals with iTerm2's protocol."""


def inline_picture(png: bytes, environment: Mapping[str, str]) -> str:
    """Returns the control sequence that shows a picture, with a line break; empty for terminals that show none.

    Args:
        png: Content of a PNG file.
        environment: Variables of the environment, by which terminals make themselves known: kitty's protocol (kitty,
            Ghostty), or that of iTerm2 (iTerm2, WezTerm, mintty). Terminals inside of tmux or screen show none.
    """
    if "TMUX" in environment or environment.get("TERM", "").startswith("screen"):
        return ""
    text = base64.b64encode(png).decode("ascii")
    if "KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        parts = [text[first : first + _CHUNK] for first in range(0, len(text), _CHUNK)]
        last = len(parts) - 1
        heads = [f"{'f=100,a=T,' if n == 0 else ''}m={int(n < last)}" for n in range(len(parts))]
        return "".join(f"\033_G{head};{part}\033\\" for head, part in zip(heads, parts, strict=True)) + "\n"
    if environment.get("TERM_PROGRAM") in _ITERM:
        return f"\033]1337;File=inline=1;size={len(png)}:{text}\a\n"
    return ""
