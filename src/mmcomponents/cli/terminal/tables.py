"""Console for tables: the width of the terminal, or a fixed width that cuts no column."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 160
"""Width in columns where the output is not a terminal."""


def table_console() -> Console:
    """Returns a console on standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console
