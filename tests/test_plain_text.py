from __future__ import annotations

import pytest

from mmcomponents.plain_text import odd_marks, plain_line, plain_lines


def test_what_cannot_be_seen_is_marked() -> None:
    assert list(odd_marks("a\u202eb")) == [("a", ""), ("U+202E", "RIGHT-TO-LEFT OVERRIDE"), ("b", "")]
    harmless = "👩\u200d👧 שלום\n\tمی\u200cخواهم"
    assert list(odd_marks(harmless)) == [(harmless, "")]
    assert plain_line("red\x1b[31m\ud800 and\nmore") == "red<U+001B>[31m<U+D800> and more"
    assert plain_line("  a  b") == "  a  b"


@pytest.mark.parametrize("letter", ["\x00", "\x07", "\x08", "\r", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066"])
def test_lines_keep_their_breaks_and_lose_what_controls_a_terminal(letter: str) -> None:
    assert plain_lines(f"é\t{letter}[2J\n") == "é\t\ufffd[2J\n"
    assert plain_line(letter) == f"<U+{ord(letter):04X}>"
