"""Console for tables, and their cells and lines: untrusted text is made safe for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mmcomponents.plain_text import plain_line

PIPE_WIDTH = 160
"""Width in columns where the output is not a terminal."""


def table_console() -> Console:
    """Returns a console on standard output: the width of the terminal, or a fixed width that cuts no column."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def cell(text: str) -> Text:
    """Returns a cell of a table in which neither rich's markup nor control characters have an effect."""
    return Text(plain_line(text))


def print_line(console: Console, text: str) -> None:
    """Prints a text in one line, without markup, highlighting, wrapping or control characters."""
    console.print(plain_line(text), markup=False, highlight=False, soft_wrap=True)
