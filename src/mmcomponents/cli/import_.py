"""`mmcomponents import`: converts a checkpoint of any known format to this library's format."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from mmcomponents.cli.models.folder_output import add_output_options, write_out
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.user_error import errors_in_one_line


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = Parser(
        prog=f"mmcomponents {verb}",
        description="Read a checkpoint folder (official InternVL, transformers, a language model or InternViT alone) "
        "or a GGUF file and write it in this library's format, which supports any composition of parts.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", help="folder to read, or a GGUF file of a language model")
    parser.add_argument(
        "--chat_tokens",
        action="store_true",
        help="add the tokens of the chat template and of images to a language model: to its tokenizer, and as mean "
        "rows to embedding and head",
    )
    add_output_options(parser)
    options = parser.parse_args(argv)
    from mmcomponents.checkpoints.language_models.gguf_files import convert_gguf, gguf_file
    from mmcomponents.data.storage.hub import local_folder

    with errors_in_one_line(verb), tempfile.TemporaryDirectory() as temporary:
        source = local_folder(options.source)
        if (file := gguf_file(source)) is not None:
            source = Path(temporary, "model")
            convert_gguf(file, source)
        _convert(options, source, Path(temporary, "tokenizer"))
    return 0


def _convert(options: argparse.Namespace, source: Path, tokenizer_folder: Path) -> None:
    """Writes a folder in this library's format.

    Args:
        options: Options of the verb.
        source: Folder to read.
        tokenizer_folder: Folder for a tokenizer with more tokens.
    """
    from mmcomponents.checkpoints import read
    from mmcomponents.checkpoints.language_models.chat_tokens import add_chat_tokens

    found = read(source, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code)
    spec, weights, folder = found.spec, found.weights, source
    if options.chat_tokens:
        tokenizer = found.tokenizer()
        spec, weights = add_chat_tokens(spec, weights, tokenizer)
        tokenizer.save_pretrained(tokenizer_folder)
        folder = tokenizer_folder
    write_out(options, spec, weights, "mmcomponents", source=found.source, folder=folder)
