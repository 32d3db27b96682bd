"""`mmcomponents data vocabulary`: words that the tokenizers of several models share, for LangBridge."""

from __future__ import annotations

from rich.console import Console

from mmcomponents.cli.data import KINDS
from mmcomponents.cli.terminal.parser import Parser, positive
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import print_line
from mmcomponents.cli.user_error import errors_in_one_line

_SHOWN = 12
"""Words that are listed."""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    command = f"{verb} vocabulary"
    options = _parser(command).parse_args(argv)
    from mmcomponents.checkpoints.language_models.vocabulary_files import LIST, write_vocabularies

    with errors_in_one_line(command), progress_bar() as bar:
        task = bar.add_task("texts", total=None)
        found = write_vocabularies(
            options.models,
            options.texts,
            options.size,
            options.out,
            options.overwrite,
            lambda done: bar.update(task, completed=done),
        )
    console = Console()
    for file, width in zip(found.files, found.widths, strict=True):
        rows = "no embeddings, since the folder has no weights" if width is None else f"embeddings of width {width:,}"
        print_line(console, f"{file}: {len(found.words):,} words, {rows}")
    unseen = sum(word.count == 0 for word in found.words)
    print_line(console, f"{options.out}/{LIST}: {unseen:,} of the words do not occur in the texts")
    first = ", ".join(repr(word.text) for word in found.words[:_SHOWN])
    print_line(console, f"the most frequent: {first}")
    return 0


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"mmcomponents {command}", description=KINDS["vocabulary"][1], allow_abbrev=False)
    add = parser.add_argument
    add("--models", nargs="+", required=True, metavar="FOLDER", help="folders of models; a folder of a tokenizer alone "
        "gives a file without embeddings, for LiveLangBridge")  # fmt: skip
    add("--texts", nargs="+", required=True, metavar="FILE", help="shards, .json and .jsonl files, or .txt files of "
        "a text a line, whose words are counted")  # fmt: skip
    add("--size", type=positive, required=True, help="number of words; the paper takes 19200, 25600 or 32000")
    add("--out", required=True, metavar="FOLDER", help="folder for a file of each model, NAME.safetensors, and the "
        "list words.tsv")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
