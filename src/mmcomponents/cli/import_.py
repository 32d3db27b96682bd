"""`mmcomponents import`: a checkpoint of any known format becomes one of ours."""

from __future__ import annotations

from pathlib import Path

from mmcomponents.cli.output import add_output_options, errors_in_one_line, output_parser, write_out


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    parser = output_parser(
        verb,
        "Read a checkpoint folder (official InternVL, transformers, a language model or InternViT alone) and write it "
        "in this library's own format, which holds any composition of parts.",
    )
    parser.add_argument("source", metavar="SRC", help="the folder")
    add_output_options(parser)
    options = parser.parse_args(argv)
    from mmcomponents.checkpoints import read

    with errors_in_one_line(verb):
        found = read(options.source, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code)
        write_out(options, found.spec, found.weights, "mmcomponents", source=found.source, folder=Path(options.source))
    return 0
