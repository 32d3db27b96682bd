"""Data commands that write a generated data set: flags are the arguments of the function that makes it."""

from __future__ import annotations

from collections.abc import Callable

from jsonargparse import ArgumentParser
from rich.console import Console

from mmcomponents.cli.terminal.parser import parse_function_flags
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import print_line
from mmcomponents.cli.user_error import UserError, errors_in_one_line


def write(verb: str, argv: list[str], kind: str, line: str, make: Callable[..., str]) -> int:
    """Parses the flags of a function, calls it, and prints the folder that it returns.

    Args:
        verb: Name of the verb.
        argv: Words after the kind.
        kind: Name of the kind of data.
        line: Line of the help.
        make: Function that writes the data set, and calls its argument `progress` with (done, total).

    Raises:
        UserError: A package is missing.
    """
    command = f"{verb} {kind}"
    parser = ArgumentParser(prog=f"mmcomponents {command}", description=line, exit_on_error=False, allow_abbrev=False)
    names = parser.add_function_arguments(make, as_positional=False, skip={"progress"})
    options = parse_function_flags(parser, argv, names, command)
    try:
        with errors_in_one_line(command), progress_bar() as bar:
            task = bar.add_task(kind, total=None)
            folder = make(
                **{name: options[name] for name in names},
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except ModuleNotFoundError as error:  # scikit-learn
        raise UserError(f"{command}: {' '.join(str(error).split())}") from error
    print_line(Console(), str(folder))
    return 0
