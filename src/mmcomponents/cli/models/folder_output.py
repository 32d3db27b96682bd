"""Writing of checkpoint folders for `import` and `export`: options, progress bar, replacement, closing table."""

from __future__ import annotations

import argparse
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.progress import DownloadColumn, TransferSpeedColumn
from rich.table import Table

from mmcomponents.cli.models.model_card import RunOrigin, write_card
from mmcomponents.cli.terminal.parser import add_trust_options
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.cli.terminal.tables import print_line, table_console
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from mmcomponents.checkpoints import ModelSpec
    from mmcomponents.checkpoints.rules import Lazy

_TYPES = ("float32", "bfloat16", "float16")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that both verbs have."""
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--dtype", choices=_TYPES, help="dtype of the written weights; default: unchanged")
    add("--max_shard_size", type=_size, default="5GB", help="largest size of a file of weights; default: 5GB")
    add("--overwrite", action="store_true", help="replace an existing checkpoint folder")
    add_trust_options(parser)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B)?", text.upper())
    size = int(float(match[1]) * _UNITS[match[2] or "B"]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"takes a size such as 5GB or 500MB, got {text!r}")
    return size


def write_out(
    options: argparse.Namespace,
    spec: ModelSpec,
    weights: Mapping[str, Lazy],
    format_name: str,
    *,
    source: tuple[str, dict[str, Any]] | None,
    folder: Path,
    run: RunOrigin | None = None,
) -> None:
    """Writes a checkpoint with a progress bar, and prints what was written.

    Args:
        options: Values of the options of `add_output_options`.
        spec: Specification of the model.
        weights: Weights by this library's names.
        format_name: Format to write.
        source: Original format and configuration of the model.
        folder: Folder of the source, which contains the tokenizer.
        run: The run that trained the model, for its card. None: it is converted from `folder`.
    """
    import torch

    from mmcomponents.checkpoints.export_folder import format_named, write
    from mmcomponents.checkpoints.rules import cast

    if options.dtype:
        weights = cast(weights, getattr(torch, options.dtype))
    out = Path(options.out)
    out = out.resolve() if out.is_symlink() else out  # a symbolic link is followed, not replaced
    total = sum(value.nbytes for value in weights.values())

    def save(path: Path) -> None:
        with progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
            task = bar.add_task(format_name, total=total)
            write(
                path,
                spec,
                weights,
                format_named(format_name),
                source=source,
                tokenizer_folder=folder,
                max_shard=options.max_shard_size,
                progress=lambda size: bar.advance(task, size),
                allow_nonfinite=options.allow_nonfinite,
            )
        write_card(path, out.name, spec, weights, format_name, run or folder)

    _replace(out, folder, options.overwrite, save)
    _report(out, format_name, weights, left_out(spec, format_name, folder))


def _replace(out: Path, source: Path, overwrite: bool, save: Callable[[Path], None]) -> None:
    """Writes a folder; an existing one is replaced only after the new one is complete."""
    if not out.exists():
        save(out)
        return
    if not out.is_dir():
        raise UserError(f"{out} exists and is not a folder")
    if not any(out.iterdir()):
        out.rmdir()
        save(out)
        return
    if not overwrite:
        raise UserError(f"{out} exists and is not empty; --overwrite replaces it")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{out} contains the source; write to another folder")
    if not (out / "config.json").is_file():
        raise UserError(f"{out} is not overwritten, since it is not a checkpoint (no config.json)")
    from mmcomponents.checkpoints.export_folder import staging_folder

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
        for staging in (new.parent, old.parent):
            shutil.rmtree(staging)


def left_out(spec: ModelSpec, format_name: str, source: Path) -> list[str]:
    """Returns one line for each property of the model that the written folder lacks."""
    found = []
    if format_name != "mmcomponents":
        sampler = spec.sampler or {}
        if sampler and str(sampler["class_path"]).rpartition(".")[2] != "Autoregressive":
            found.append(f"sampler: {sampler['class_path']} is not part of the format {format_name}")
        position = spec.parts.get("position") or {}
        delta = (position.get("init_args") or {}).get("delta", 1.0)
        if position.get("class_path") == "V2PE" and delta != 1 and spec.parts.get("vision"):
            found.append(f"positions: V2PE with delta {delta} becomes RoPE, as {format_name} has no V2PE")
    how = spec.processing
    if format_name == "transformers" and spec.parts.get("vision") and not how.thumbnail and how.max_tiles > 1:
        found.append("images: transformers adds a thumbnail to several tiles; this model uses none")
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
    table.add_row("other files", ", ".join(file.name for file in files if file not in shards))
    console = table_console()
    console.print(table, markup=False, highlight=False)
    for line in missing:
        print_line(console, f"warning: {line}")
