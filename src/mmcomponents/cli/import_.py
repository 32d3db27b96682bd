"""`mmcomponents import`: converts a checkpoint of any known format to this library's format."""

from __future__ import annotations

from pathlib import Path

from mmcomponents.cli.models.folder_output import add_output_options, write_out
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.user_error import errors_in_one_line


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = Parser(
        prog=f"mmcomponents {verb}",
        description="Read a checkpoint folder (official InternVL, transformers, a language model or InternViT alone) "
        "and write it in this library's format, which supports any composition of parts.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", help="folder to read")
    add_output_options(parser)
    options = parser.parse_args(argv)
    from mmcomponents.checkpoints import read

    with errors_in_one_line(verb):
        found = read(options.source, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code)
        write_out(options, found.spec, found.weights, "mmcomponents", source=found.source, folder=Path(options.source))
    return 0
