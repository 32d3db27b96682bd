"""Control sequences of pictures in terminals."""

from __future__ import annotations

import base64
import re

from mmcomponents.cli.terminal.inline_pictures import inline_picture

PNG = bytes(range(256)) * 20


def test_kitty_gets_parts_that_make_up_the_file() -> None:
    found = inline_picture(PNG, {"TERM": "xterm-kitty"})
    parts = re.findall("\033_G([^;]*);([^\033]*)\033\\\\", found)
    assert base64.b64decode("".join(part for _, part in parts)) == PNG
    assert [head for head, _ in parts] == ["f=100,a=T,m=1", "m=0"]
    assert all(len(part) <= 4096 for _, part in parts)


def test_iterm_gets_the_file_in_one_piece() -> None:
    found = inline_picture(PNG, {"TERM_PROGRAM": "WezTerm", "TERM": "xterm-256color"})
    assert found == f"\033]1337;File=inline=1;size={len(PNG)}:{base64.b64encode(PNG).decode()}\a\n"


def test_other_terminals_get_nothing() -> None:
    for environment in ({}, {"TERM": "xterm-256color"}, {"TERM": "xterm-kitty", "TMUX": "1"}):
        assert inline_picture(PNG, environment) == ""
