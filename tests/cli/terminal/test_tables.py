"""Lines and cells of text that is not trusted, and that no writer of the command goes round them."""

from __future__ import annotations

import ast
import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmcomponents import cli
from mmcomponents.cli.terminal.tables import cell, print_line

HOSTILE = "[red]a[/red]\x1b[2J[link=x]\u202eb\nc"
SAFE = "[red]a[/red]<U+001B>[2J[link=x]<U+202E>b c"


def test_lines_and_cells_are_one_line_without_markup_and_control() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    print_line(console, HOSTILE)
    assert console.file.getvalue() == SAFE + "\n"
    table = Table("name", box=None, show_header=False)
    table.add_row(cell(HOSTILE))
    console.print(table)
    assert console.file.getvalue().splitlines()[-1].strip() == SAFE


def test_texts_are_printed_by_print_line_alone() -> None:
    """`console.print` takes tables; untrusted text goes through `print_line`."""
    texts = []
    for path in sorted(Path(cli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "print"
            if is_print and path.name != "tables.py" and _may_be_text(node.args[0]):
                texts.append(f"{path.name}:{node.lineno}: {ast.unparse(node.args[0])}")
    assert texts == []


def _may_be_text(node: ast.expr) -> bool:
    """Whether an argument is a text that is not written out in the source."""
    return isinstance(node, ast.JoinedStr | ast.BinOp) or (isinstance(node, ast.Name) and node.id == "line")
