"""Where tables are printed: a terminal has its own width, anything else gets one that cuts no column."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 160
"""Columns where the output is no terminal."""


def table_console() -> Console:
    """Standard output, for tables."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console
