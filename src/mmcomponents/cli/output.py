"""What `import` and `export` share: their options, the bar, the closing table, folders that are there already."""

from __future__ import annotations

import argparse
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from mmcomponents.cli.errors import UserError

if TYPE_CHECKING:
    from mmcomponents.checkpoints import ModelSpec
    from mmcomponents.checkpoints.rules import Lazy

_PIPE_WIDTH = 200
"""Columns of the table where no terminal says how many there are."""

_TYPES = ("float32", "bfloat16", "float16")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('mmcomponents ')}: {message}")


def output_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """A parser whose complaints are a user's errors."""
    return _Parser(prog=f"mmcomponents {verb}", description=description, allow_abbrev=False)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What both verbs take."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--dtype", choices=_TYPES, help="of the written weights; default: as they are")
    parser.add_argument("--max_shard_size", type=_size, default="5GB", help="of a file of weights; default: 5GB")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint folder that is there already")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="import parts of other packages that a folder of ours names by dotted path; only if you trust it",
    )
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read weights that are pickles; only if you trust them"
    )


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B)?", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or "B"]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"takes a size such as 5GB or 500MB, got {text!r}")
    return size


@contextmanager
def errors_in_one_line(verb: str) -> Iterator[None]:
    """What goes wrong with a checkpoint, its parts or the disk is told in one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{verb}: {' '.join(str(error).split())}") from error


def write_out(
    options: argparse.Namespace,
    spec: ModelSpec,
    weights: Mapping[str, Lazy],
    format_name: str,
    *,
    source: tuple[str, dict[str, Any]] | None,
    folder: Path,
) -> None:
    """Writes a checkpoint with a bar, and says what was written.

    Args:
        options: Has what `add_output_options` adds.
        spec: The model.
        weights: By our names.
        format_name: How to store it.
        source: Format and configuration that the model had first.
        folder: The source's folder: holds the tokenizer.
    """
    import torch

    from mmcomponents.checkpoints.export import format_named, write
    from mmcomponents.checkpoints.rules import cast

    if options.dtype:
        weights = cast(weights, getattr(torch, options.dtype))
    out = Path(options.out)
    out = out.resolve() if out.is_symlink() else out  # a link is followed, not replaced
    total = sum(value.nbytes for value in weights.values())

    def save(place: Path) -> None:
        with _bar() as bar:
            task = bar.add_task(format_name, total=total)
            write(
                place,
                spec,
                weights,
                format_named(format_name),
                source=source,
                tokenizer_folder=folder,
                max_shard=options.max_shard_size,
                progress=lambda size: bar.advance(task, size),
            )

    _place(out, folder, options.overwrite, save)
    _report(out, format_name, weights, left_out(spec, format_name, folder))


def _place(out: Path, source: Path, overwrite: bool, save: Callable[[Path], None]) -> None:
    """Writes to a folder that is not there; an older one stands until the new one is whole."""
    if not out.exists():
        save(out)
        return
    if not out.is_dir():
        raise UserError(f"{out} is there already and no folder")
    if not any(out.iterdir()):
        out.rmdir()
        save(out)
        return
    if not overwrite:
        raise UserError(f"{out} is there already and not empty; --overwrite replaces it")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{out} holds the source; write to another folder")
    if not (out / "config.json").is_file():
        raise UserError(f"{out} holds something else than a checkpoint (no config.json): it is not overwritten")
    from mmcomponents.checkpoints.export import staging_folder

    new, old = staging_folder(out) / out.name, staging_folder(out) / out.name
    try:
        save(new)
        out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
    finally:
        for beside in (new.parent, old.parent):
            shutil.rmtree(beside)


def left_out(spec: ModelSpec, format_name: str, source: Path) -> list[str]:
    """What the model has and the written folder has not, one line each."""
    found = []
    if format_name != "mmcomponents":
        position = spec.parts.get("position") or {}
        delta = (position.get("init_args") or {}).get("delta", 1.0)
        if position.get("class_path") == "V2PE" and delta != 1 and spec.parts.get("vision"):
            found.append(f"positions: V2PE with delta {delta} becomes RoPE: {format_name} has no V2PE")
    how = spec.processing
    if format_name == "transformers" and spec.parts.get("vision") and not how.thumbnail and how.max_tiles > 1:
        found.append("images: transformers adds a thumbnail to several tiles, and this model was made without")
    if format_name == "official":
        found.append(
            "code: the authors' Python files and their auto_map in config.json are not written; AutoModel with "
            "trust_remote_code needs both"
        )
    code = sorted(file.name for file in source.glob("*.py"))
    if code:
        found.append(f"code: Python files of {source} are not copied: {', '.join(code)}")
    return found


def _report(out: Path, format_name: str, weights: Mapping[str, Lazy], missing: list[str]) -> None:
    files = sorted(file for file in out.rglob("*") if file.is_file())
    shards = [file for file in files if file.suffix == ".safetensors"]
    kinds = Counter(str(value.meta.dtype).removeprefix("torch.") for value in weights.values())
    parameters = sum(value.meta.numel() for value in weights.values())
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("written", str(out))
    table.add_row("format", format_name)
    table.add_row("parameters", f"{parameters:,} in {' and '.join(kinds)}")
    size = decimal(sum(file.stat().st_size for file in shards))
    table.add_row("weights", f"{size} in {len(shards)} file{'s' if len(shards) > 1 else ''}")
    table.add_row("beside", ", ".join(file.name for file in files if file not in shards))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table, markup=False, highlight=False)
    for line in missing:
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def _bar() -> Progress:
    """A bar over bytes on standard error that leaves nothing behind; none where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
