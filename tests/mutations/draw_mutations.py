"""Draws faults at random, with the operators of cosmic-ray, as a list for run_mutations.py.

First a place is drawn, then one of the changes that are possible there: otherwise every second fault would be one of
the eleven replacements of an arithmetic operator. Places where no change can be noticed are left out: annotations, code
for type checkers, arguments of calls that log.

    pip install -e '.[mutation]'
    python tests/mutations/draw_mutations.py --seed 17 --count 60 src/mmcomponents/nn/cache.py … > drawn.yaml
    python tests/mutations/run_mutations.py drawn.yaml
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

import yaml
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
LOGS = re.compile(r"(log|logger|_log|_LOG|LOG|warnings)\.\w+|rank_zero_\w+")


class Span(NamedTuple):
    """Where a piece of source starts and ends, as (line, column)."""

    start: tuple[int, int]
    end: tuple[int, int]


class Change(NamedTuple):
    """One use of an operator of cosmic-ray."""

    operator: str
    occurrence: int


def draw(files: Sequence[Path], count: int, seed: int) -> list[dict[str, object]]:
    """Draws faults, as entries of a list."""
    changes = {file: _changes(file.read_text(encoding="utf-8")) for file in files}
    places = sorted((file, place) for file in files for place in changes[file])
    draws = random.Random(seed)
    found = []
    for file, place in sorted(draws.sample(places, count)):
        change = draws.choice(changes[file][place])
        source = file.read_text(encoding="utf-8")
        changed = mutate_code(source, get_operator(change.operator)(), change.occurrence)
        old, new = _difference(source, changed)
        why = f"line {place.start[0]}: {change.operator.removeprefix('core/')}"
        name = file.relative_to(ROOT).as_posix()
        found.append({"why": why, "file": name, "old": old, "new": new, "test": tests_of(file)})
    return found


def tests_of(file: Path) -> list[str]:
    """Test files that concern a module: that of its name, then those that import from it, else its folder's."""
    inside = file.relative_to(ROOT / "src")
    module, folder = ".".join(inside.with_suffix("").parts), TESTS.joinpath(*inside.parts[1:-1])
    defined = ast.parse(file.read_text(encoding="utf-8")).body
    names = {node.name for node in defined if isinstance(node, ast.FunctionDef | ast.ClassDef)}

    def concerns(test: Path) -> bool:
        if test.stem == f"test_{file.stem}":
            return True
        nodes = [
            node for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
        ]
        imported = {(node.module or "", alias.name) for node in nodes for alias in node.names}
        # From the module itself, from its package, which exports the name, or the module from its package.
        return any(
            origin == module or (module.startswith(f"{origin}.") and (name in names or f"{origin}.{name}" == module))
            for origin, name in imported
        )

    tests = sorted(TESTS.rglob("test_*.py"), key=lambda path: (path.stem != f"test_{file.stem}", path.parent != folder))
    found = [path for path in tests if concerns(path)] or sorted(folder.glob("test_*.py"))
    return [path.relative_to(ROOT).as_posix() for path in found]


def _changes(source: str) -> dict[Span, list[Change]]:
    hidden = list(_unnoticeable(ast.parse(source)))
    found: dict[Span, list[Change]] = defaultdict(list)
    tree = get_ast(source)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [place for node in ast_nodes(tree) for place in operator().mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(span.start <= start and end <= span.end for span in hidden):
                found[Span(start, end)].append(Change(name, occurrence))
    return found


def _unnoticeable(tree: ast.AST) -> Iterator[Span]:
    for node in ast.walk(tree):
        inside: list[ast.expr | ast.stmt | None] = []
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside = [node]
        elif isinstance(node, ast.AnnAssign | ast.arg):
            inside = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [node.returns]
        elif isinstance(node, ast.Call) and LOGS.fullmatch(ast.unparse(node.func)):
            inside = [node]
        for part in inside:
            if part is not None and part.end_lineno is not None and part.end_col_offset is not None:
                yield Span((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))


def _difference(source: str, changed: str) -> tuple[str, str]:
    """The lines that differ, with as many around them as make the old ones unique."""
    old, new = source.splitlines(keepends=True), changed.splitlines(keepends=True)
    blocks = [code for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    first, last, new_first, new_last = blocks[0][1], blocks[-1][2], blocks[0][3], blocks[-1][4]
    while source.count("".join(old[first:last])) != 1:
        step = min(first, 1)
        first, new_first = first - step, new_first - step
        last, new_last = last + 1, new_last + 1
    return "".join(old[first:last]), "".join(new[new_first:new_last])


def main() -> None:
    """Prints a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = draw([file.resolve() for file in arguments.files], arguments.count, arguments.seed)
    yaml.safe_dump(faults, sys.stdout, sort_keys=False, allow_unicode=True, width=1000)


if __name__ == "__main__":
    main()
