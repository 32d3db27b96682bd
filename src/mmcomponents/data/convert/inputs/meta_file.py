"""InternVL's meta files: `{"NAME": {"annotation": FILE, "root": FOLDER, "repeat_time": …}, …}`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcomponents.data.convert.annotation_formats import FORM_KEYS
from mmcomponents.data.convert.inputs.json_list import is_list
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.inputs.strict_json import JsonProblem, parse_json
from mmcomponents.data.convert.inputs.unicode_names import normalized_match
from mmcomponents.data.convert.wording import beginning
from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.regular_file import open_regular

_META_KEYS = {"root", "annotation", "data_augment", "max_dynamic_patch", "repeat_time", "length"}
_LARGEST_META = 16_000_000
_LINES_LOOKED_AT = 100
_LARGEST_NUMBER = 1e15


def read_meta(path: Path) -> dict[str, Any] | None:
    """Reads a meta file; returns None for a file of JSON lines or a JSON list.

    Raises:
        DataError: The file is none of these.
    """
    if path.suffix.lower() != ".json" or is_list(path):
        return None
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
        boxes = "; boxes of COCO need --kinds BoxedImage" if {"images", "annotations"} <= content.keys() else ""
        raise DataError(
            f'{path} is neither a sample nor a meta file {{"NAME": {{"annotation": FILE, "root": FOLDER}}, …}}{boxes}'
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


def meta_sources(
    path: Path, meta: dict[str, Any], other_root: str | None, open_source: Callable[[Path, str], Source]
) -> Iterator[Source]:
    """Yields the data sets of a meta file.

    Args:
        path: The meta file.
        meta: Its content.
        other_root: Folder of the media of data sets that name none; None: that of each annotation file.
        open_source: Returns the source of an annotation file, with a name.

    Raises:
        DataError: An entry is wrong, or a file is missing.
    """
    for name, entry in meta.items():
        where = f"{path}, data set {beginning(name)!r}"
        unknown = sorted(set(entry) - _META_KEYS)
        if unknown:
            raise DataError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_META_KEYS))}")
        annotation, root = entry.get("annotation"), entry.get("root") or ""
        if not isinstance(annotation, str) or not isinstance(root, str):
            raise DataError(f"{where}: 'annotation' must be the path of a .jsonl file, 'root' that of a folder")
        file = _beside(path, annotation, where)
        if read_meta(file) is not None:
            raise DataError(f"{where}: its annotation, {file}, is a meta file; give a .jsonl file")
        repeat, tiles = _number(entry, "repeat_time", where), _number(entry, "max_dynamic_patch", where)
        length = _number(entry, "length", where)
        jpeg = entry.get("data_augment")
        if not isinstance(jpeg, bool | None):
            raise DataError(f"{where}: 'data_augment' must be true or false, not {jpeg!r}")
        if tiles is not None and (tiles < 1 or tiles != int(tiles)):
            raise DataError(f"{where}: 'max_dynamic_patch' must be a positive integer, not {tiles:g}")
        yield replace(
            open_source(file, str(name)),
            root=_beside(path, root, where) if root else Path(other_root or file.parent),
            repeat=repeat,
            max_tiles=None if tiles is None else int(tiles),
            jpeg=jpeg,
            length=None if length is None else int(length),
            is_listed=True,
        )


def _beside(meta: Path, name: str, where: str) -> Path:
    """Resolves a path in a meta file: relative to its folder, or to the working directory, as in InternVL's scripts."""
    for path in (meta.parent / name, Path(name)):
        if path.exists():
            return path
        if (found := normalized_match(path)) is not None:
            return found
    raise DataError(f"{where}: there is no {name}, neither beside the meta file nor in the working directory")


def _number(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_NUMBER:
        raise DataError(f"{where}: {key!r} must be a number >= 0, not {beginning(repr(value), 40)}")
    return float(value)
