"""Sources of annotations: data sets of a meta file, annotation files and text files."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from mmcomponents.data.convert.annotation_formats import FORM_KEYS
from mmcomponents.data.convert.strict_json import JsonProblem, parse_json
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import MAX_SOURCE
from mmcomponents.data.storage.regular_file import open_regular

LINES = (".jsonl", ".ndjson", ".json")
TEXTS = (".txt",)
_META_KEYS = {"root", "annotation", "data_augment", "max_dynamic_patch", "repeat_time", "length"}
_LARGEST_META = 16_000_000
_LINES_LOOKED_AT = 100
_LARGEST_NUMBER = 1e15


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        name: Name in recipes and logs.
        files: Its annotation file, or its text files.
        documents: Whether the files are plain texts, one document each.
        root: Folder to which paths of media are relative.
        repeat: Number of passes in an epoch; None: not set.
        max_tiles: Largest number of tiles of its images; None: not set.
        jpeg: Whether training re-compresses its images as JPEG; None: not set.
        length: Number of lines according to its meta file; None: not set.
    """

    name: str
    files: tuple[Path, ...]
    documents: bool
    root: Path
    repeat: float | None = None
    max_tiles: int | None = None
    jpeg: bool | None = None
    length: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the meta file, by the names of `SourceOptions`; None: not set."""
        return {"repeat": self.repeat, "max_tiles": self.max_tiles, "jpeg": self.jpeg}

    @property
    def stem(self) -> str:
        """The name in a form for file names."""
        return re.sub(r"\W+", "_", self.name.replace("-", "\0")).replace("\0", "-").strip("_-")[:100] or "source"

    def shard(self, number: int) -> str:
        """Returns the file name of a shard."""
        return f"{self.stem}-{number:06d}.tar"


def find_sources(inputs: Sequence[str], root: str | None) -> list[Source]:
    """Finds the sources of given inputs.

    Args:
        inputs: Meta files, annotation files, text files, folders of these, or patterns.
        root: Folder of the media if the meta file names none; None: the folder of each annotation file.

    Raises:
        DataError: An input is missing or of an unknown kind, a meta file is wrong, or two sources have the same name.
    """
    if root is not None and not Path(root).is_dir():
        raise DataError(f"the root {root} is not a folder")
    sources: list[Source] = []
    texts: dict[Path, dict[Path, None]] = {}
    for path in dict.fromkeys(path for given in inputs for path in _files(given)):
        if path.suffix.lower() in TEXTS:
            texts.setdefault(path.parent, {})[path] = None
        elif (meta := _meta(path)) is not None:
            sources += _of_meta(path, meta, root)
        else:
            sources.append(Source(path.stem, (path,), False, Path(root) if root else path.parent))
    for folder, files in texts.items():
        sources.append(Source(folder.resolve().name or "texts", tuple(files), True, folder))
    _check_names(sources)
    return sources


def _files(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in (*LINES[:2], *TEXTS) and p.is_file())
        if not found:
            raise DataError(f"the folder {given} has no .jsonl and no .txt files; give files or a pattern")
        return found
    found = [path] if path.exists() else [Path(name) for name in sorted(glob(given, recursive=True))]
    if not found:
        raise DataError(f"there is no {given}")
    for file in found:
        if file.suffix.lower() not in (*LINES, *TEXTS) or not file.is_file():
            raise DataError(f"{file} is not an annotation file: supported are {', '.join((*LINES, *TEXTS))}")
    return found


def _meta(path: Path) -> dict[str, Any] | None:
    """Reads a meta file; returns None for a file of JSON lines."""
    if path.suffix.lower() != ".json":
        return None
    with open_regular(path) as file:
        is_list = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if is_list:
        raise DataError(f"{path} is a JSON list; write one sample per line: jq -c '.[]' {path} > {path.stem}.jsonl")
    has_lines = _has_lines(path)
    if path.stat().st_size > _LARGEST_META:
        if not has_lines:
            raise DataError(f"{path} is too large for a meta file, and does not have one sample per line")
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text)
    except (ValueError, RecursionError):
        if has_lines:
            return None  # invalid lines are reported later
        _parsed(path)
        raise
    if isinstance(content, dict) and _is_meta(content):
        _parsed(path)
        return content
    if isinstance(content, dict) and not any(key in content for key in FORM_KEYS):
        raise DataError(
            f'{path} is neither a sample nor a meta file {{"NAME": {{"annotation": FILE, "root": FOLDER}}, …}}'
        )
    if not has_lines:
        raise DataError(f"{path} is a sample in several lines; write it in one: jq -c . {path} > {path.stem}.jsonl")
    return None


def _is_meta(content: dict[str, Any]) -> bool:
    """Whether an object is a meta file. Its data sets may be named `text` or `messages`, like keys of a sample."""
    entries = [value for value in content.values() if isinstance(value, dict)]
    if not entries or len(entries) < len(content):
        return False
    return any("annotation" in entry for entry in entries) or not any(key in content for key in FORM_KEYS)


def _has_lines(path: Path) -> bool:
    """Whether one of the first non-blank lines is a JSON object, or the file has no such lines."""
    looked_at = 0
    with open_regular(path) as file:
        while looked_at < _LINES_LOOKED_AT and (line := file.readline(_LARGEST_META)):
            if not line.strip():
                continue
            looked_at += 1
            try:
                if isinstance(json.loads(line.decode("utf-8-sig")), dict):
                    return True
            except (ValueError, RecursionError):
                pass
    return looked_at == 0


def _parsed(path: Path) -> object:
    """Parses a file that must be a single JSON text."""
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not JSON: invalid UTF-8 at byte {error.start}") from None
    except JsonProblem as error:
        where = f"line {error.line}: " if error.line else ""
        raise DataError(f"{path} is not JSON: {where}{error}") from None


def _of_meta(path: Path, meta: dict[str, Any], other_root: str | None) -> Iterator[Source]:
    for name, entry in meta.items():
        where = f"{path}, data set {beginning(name)!r}"
        unknown = sorted(set(entry) - _META_KEYS)
        if unknown:
            raise DataError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_META_KEYS))}")
        annotation, root = entry.get("annotation"), entry.get("root") or ""
        if not isinstance(annotation, str) or not isinstance(root, str):
            raise DataError(f"{where}: 'annotation' must be the path of a .jsonl file, 'root' that of a folder")
        file = _beside(path, annotation, where)
        if _meta(file) is not None:
            raise DataError(f"{where}: its annotation, {file}, is a meta file; give a .jsonl file")
        repeat, tiles = _number(entry, "repeat_time", where), _number(entry, "max_dynamic_patch", where)
        length = _number(entry, "length", where)
        jpeg = entry.get("data_augment")
        if not isinstance(jpeg, bool | None):
            raise DataError(f"{where}: 'data_augment' must be true or false, not {jpeg!r}")
        if tiles is not None and (tiles < 1 or tiles != int(tiles)):
            raise DataError(f"{where}: 'max_dynamic_patch' must be a positive integer, not {tiles:g}")
        yield Source(
            name=str(name),
            files=(file,),
            documents=file.suffix.lower() in TEXTS,
            root=_beside(path, root, where) if root else Path(other_root or file.parent),
            repeat=repeat,
            max_tiles=None if tiles is None else int(tiles),
            jpeg=jpeg,
            length=None if length is None else int(length),
        )


def _beside(meta: Path, name: str, where: str) -> Path:
    """Resolves a path in a meta file: relative to its folder, or to the working directory, as in InternVL's scripts."""
    for path in (meta.parent / name, Path(name)):
        if path.exists():
            return path
    raise DataError(f"{where}: there is no {name}, neither beside the meta file nor in the working directory")


def _number(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_NUMBER:
        raise DataError(f"{where}: {key!r} must be a number >= 0, not {beginning(repr(value), 40)}")
    return float(value)


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
            raise DataError(
                f"{other.files[0]} and {source.files[0]} would both write {source.stem}-*.tar: name them in a meta"
                ' file, {"NAME": {"annotation": FILE, "root": FOLDER}, …}'
            )
