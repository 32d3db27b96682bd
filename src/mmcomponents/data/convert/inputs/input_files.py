"""Sources of annotations: data sets of a meta file, annotation files, text files and tables."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path

from mmcomponents.data.convert.annotation_formats import FORM_KEYS
from mmcomponents.data.convert.inputs.json_list import is_list
from mmcomponents.data.convert.inputs.meta_file import meta_sources, read_meta
from mmcomponents.data.convert.inputs.source import Kind, Source
from mmcomponents.data.convert.inputs.table_rows import PARQUET, count_rows, saved_splits
from mmcomponents.data.convert.inputs.unicode_names import normalized_match
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import MAX_SOURCE
from mmcomponents.data.storage.regular_file import open_regular

LINES = (".jsonl", ".ndjson", ".json")
TEXTS = (".txt",)
_LONGEST_LINE = 16_000_000
_NUMBERED = re.compile(r"(?P<name>.+)-\d{5,}-of-\d{5,}")
"""Stem of one of several tables of a data set, as in repositories of data sets."""


def find_sources(inputs: Sequence[str], root: str | None, val: float = 0.0) -> list[Source]:
    """Finds the sources of given inputs.

    Args:
        inputs: Meta files, annotation files, text files, tables, folders of these, or patterns.
        root: Folder of the media if the meta file names none; None: the folder of each annotation file.
        val: Share of the samples of each source for training that is split off for validation.

    Raises:
        DataError: An input is missing or of an unknown kind, a meta file is wrong, or two sources have the same name.
    """
    if root is not None and not Path(root).is_dir():
        raise DataError(f"the root {root} is not a folder")
    sources: list[Source] = []
    groups: dict[tuple[Kind, Path, str], dict[Path, None]] = {}
    for path in dict.fromkeys(path for given in inputs for path in _files(given)):
        suffix = path.suffix.lower()
        if path.is_dir():
            for split, tables in saved_splits(path).items():
                name = f"{path.resolve().name}-{split}" if split else path.resolve().name
                sources.append(_table(name, tables, Path(root) if root else path))
        elif suffix in TEXTS:
            groups.setdefault(("texts", path.parent, path.parent.resolve().name or "texts"), {})[path] = None
        elif suffix == PARQUET:
            numbered = _NUMBERED.fullmatch(path.stem)
            groups.setdefault(("table", path.parent, numbered["name"] if numbered else path.stem), {})[path] = None
        elif (meta := read_meta(path)) is not None:
            sources += meta_sources(path, meta, root, _annotations)
        else:
            source = _annotations(path, path.stem)
            sources.append(replace(source, root=Path(root)) if root else source)
    for (kind, folder, name), files in groups.items():
        if kind == "texts":
            sources.append(Source(name, tuple(files), kind, folder))
        else:
            sources.append(_table(name, tuple(files), Path(root) if root else folder))
    if val:
        sources = [share for source in sources for share in _shares(source, val)]
    _check_names(sources)
    return sources


def _annotations(path: Path, name: str) -> Source:
    """Returns the source of an annotation file, with media beside it."""
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return _table(name, (path,), path.parent)
    kind: Kind = "texts" if suffix in TEXTS else "list" if suffix == ".json" and is_list(path) else "lines"
    return Source(name, (path,), kind, path.parent)


def _table(name: str, files: tuple[Path, ...], root: Path) -> Source:
    return Source(name, files, "table", root, rows=tuple(map(count_rows, files)))


def _shares(source: Source, val: float) -> list[Source]:
    """Returns the shares of a source for training and for validation; itself if it is not for training."""
    if source.part != "train":
        return [source]
    return [replace(source, share=val), replace(source, share=val, is_val=True)]


def _files(given: str) -> Iterator[Path]:
    path = Path(given)
    if not path.exists() and (match := normalized_match(path)) is not None:
        path = match
    if path.is_dir():
        yield from _of_folder(path)
        return
    found = [path] if path.exists() else [Path(name) for name in sorted(glob(given, recursive=True))]
    if not found:
        raise DataError(f"there is no {given}")
    for file in found:
        if file.is_dir() and saved_splits(file):
            yield file
        elif file.suffix.lower() not in (*LINES, *TEXTS, PARQUET) or not file.is_file():
            raise DataError(f"{file} is not an annotation file: supported are {', '.join((*LINES, *TEXTS, PARQUET))}")
        else:
            yield file


def unread_files(inputs: Sequence[str]) -> list[Path]:
    """Returns the JSON files in folders of the inputs that are not read: they are neither a list nor lines."""
    folders = [Path(given) for given in inputs if Path(given).is_dir() and not saved_splits(Path(given))]
    return [file for folder in folders for file in sorted(folder.glob("*.json")) if not _has_annotations(file)]


def _has_annotations(path: Path) -> bool:
    """Whether a .json file in a folder is read: a list, or lines of which the first is an annotation."""
    if is_list(path):
        return True
    with open_regular(path) as file:
        try:
            first = json.loads(file.readline(_LONGEST_LINE))
        except (ValueError, RecursionError):
            return False
    return isinstance(first, dict) and any(key in first for key in FORM_KEYS) and not read_meta(path)


def _of_folder(path: Path) -> list[Path]:
    if saved_splits(path):
        return [path]
    found = [p for p in path.iterdir() if p.suffix.lower() in (*LINES[:2], *TEXTS, PARQUET) and p.is_file()]
    found = sorted([*found, *(p for p in path.glob("*.json") if p.is_file() and _has_annotations(p))])
    if not found:
        raise DataError(f"the folder {path} has no .jsonl, .txt and .parquet files; give files or a pattern")
    return found


def _check_name(source: Source) -> None:
    """Checks a name, which is stored in each sample and, with a maximum length, in each index."""
    name, what = source.name, f"the name of the data set of {source.files[0]}"
    if not name.strip():
        raise DataError(f"{what} is empty")
    if len(name) > MAX_SOURCE:
        length = counted(len(name), "character")
        raise DataError(f"{what} has {length}, more than {MAX_SOURCE}: {beginning(name, 40)!r}")
    if odd := next((letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs")), None):
        raise DataError(f"{what} has the control character U+{ord(odd):04X}: {beginning(name, 40)!r}")


def _check_names(sources: Sequence[Source]) -> None:
    seen: dict[str, Source] = {}
    for source in sources:
        _check_name(source)
        other = seen.setdefault(source.stem.casefold(), source)
        if other is not source:
            names = source.name, other.name
            alike = len({*names}) == 2 and len({unicodedata.normalize("NFC", name) for name in names}) == 1
            why = (
                f"; their names, {names[0]!a} and {names[1]!a}, differ in Unicode normalization alone" if alike else ""
            )
            raise DataError(
                f"{other.files[0]} and {source.files[0]} would both write {source.stem}-*.tar: name them in a meta"
                ' file, {"NAME": {"annotation": FILE, "root": FOLDER}, …}'
                f"{why}"
            )
