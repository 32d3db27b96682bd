"""Argument parsers of the command, and types and groups of options that several verbs use."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mmcomponents.cli.user_error import UserError, one_line
from mmcomponents.registry import near

if TYPE_CHECKING:
    import jsonargparse


GB = 2**30
"""What makers of GPUs call a GB: one of 80 GB has 80 GiB."""


class Parser(argparse.ArgumentParser):
    """Raises `UserError`, which the command prints as one line, instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises the error, prefixed with the name of the verb."""
        raise UserError(f"{self.prog.removeprefix('mmcomponents ')}: {message}")


def recipe_verb_parser(command: str, description: str, usage: str | None = None) -> Parser:
    """Returns a parser for a command that also takes flags of a recipe, to be used with `parse_known_args`.

    `--help` is an ordinary option, which the caller handles.

    Args:
        command: Name of the command, without `mmcomponents`.
        description: Text of the help.
        usage: Usage lines; None: generated from the options.
    """
    parser = Parser(
        prog=f"mmcomponents {command}", usage=usage, description=description, allow_abbrev=False, add_help=False
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    return parser


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--allow_pickle`, `--allow_nonfinite` and `--trust_remote_code`, which apply to checkpoint folders."""
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read weights that are stored as pickles; only from trusted sources"
    )
    parser.add_argument("--allow_nonfinite", action="store_true", help="accept weights with NaN or infinities")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="import parts of other packages that a folder of this library names by dotted path; only from trusted "
        "sources",
    )


def add_kinds_option(parser: argparse.ArgumentParser) -> str:
    """Adds `--kinds`, the record kinds of shards; returns the name of its value, a list of names or None."""
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="NAME",
        help="all record kinds of the runs, by name (`mmcomponents components record_kind`), dotted path, or with "
        "arguments as '{class_path: NAME, init_args: {…}}'; default: chat, document and pair",
    )
    return "kinds"


def add_tokens_option(parser: argparse.ArgumentParser) -> str:
    """Adds `--allowed_tokens`, special tokens in texts; returns the name of its value, a list of tokens or None."""
    parser.add_argument(
        "--allowed_tokens",
        nargs="+",
        metavar="TOKEN",
        help="special tokens of the tokenizer that texts may contain as single tokens, as data.text.allowed_tokens of "
        "the runs; default: none, such a text is encoded as plain text",
    )
    return "allowed_tokens"


def parse_function_flags(
    parser: jsonargparse.ArgumentParser, argv: Sequence[str], names: Collection[str], command: str
) -> Any:
    """Parses flags that jsonargparse derived from a function's arguments.

    Args:
        parser: Parser with `exit_on_error=False`.
        argv: Words after the command.
        names: Names of the flags, among which an unknown one is looked up.
        command: Name of the command, for messages.

    Returns:
        The namespace, with its classes instantiated.

    Raises:
        UserError: A flag is unknown or missing, or a value is invalid.
    """
    try:
        return parser.instantiate_classes(parser.parse_args(list(argv)))
    except argparse.ArgumentError as error:
        text = one_line(str(error))
        unknown = text.partition("unrecognized arguments: --")[2].partition(" ")[0].partition("=")[0]
        raise UserError(f"{command}: {text}{near(unknown, names) if unknown else ''}") from None


def natural(text: str) -> int:
    """Option type: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Option type: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """Option type: a number, which may be written as a fraction such as 1/4."""
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def capacity(text: str) -> int:
    """Option type: an amount of memory such as 80GB, in bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(G(i?B)?)?", text, re.IGNORECASE)
    value = 0 if found is None else int(float(found[1]) * GB)
    if not value:
        raise argparse.ArgumentTypeError(f"takes an amount of memory such as 80GB, got {text!r}")
    return value
