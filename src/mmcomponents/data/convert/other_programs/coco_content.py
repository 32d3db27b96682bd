"""Reading of files in COCO's format: their lists, and the ids of their entries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcomponents.data.convert.annotation_formats import FORM_KEYS
from mmcomponents.data.convert.inputs.strict_json import JsonProblem, parse_json
from mmcomponents.data.errors import DataError

_KEYS = ("images", "annotations", "categories")


def read_content(path: Path) -> dict[str, Any] | None:
    """Reads a file of COCO.

    Returns:
        Its content; None for a file of another form, which the reader of annotation files reports.

    Raises:
        DataError: It has the form of COCO, and one of its lists is missing or it is not strict JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
    try:
        content = parse_json(text)
    except JsonProblem as problem:
        content = _lenient(text)
        if _is_coco(content):
            raise DataError(f"{path} is not valid JSON{_first_wrong(content)}: {problem}") from None
        return None
    if not isinstance(content, dict) or not _is_coco(content):
        return None
    if missing := [key for key in _KEYS if key not in content]:
        there = " and ".join(repr(key) for key in _KEYS if key in content)
        raise DataError(f"{path} has {there} of COCO's format, and no {missing[0]!r}")
    return content


def entries(content: Mapping[str, Any], key: str, fields: Sequence[str], where: str) -> list[dict[str, Any]]:
    """Returns one of the lists.

    Args:
        content: Content of the file.
        key: Name of the list.
        fields: Keys of each entry.
        where: Name of the file, for messages.

    Raises:
        DataError: It is no list, or an entry lacks a key.
    """
    found = content[key]
    if not isinstance(found, list):
        raise DataError(f"{where}: {key!r} must be a list")
    for number, entry in enumerate(found, 1):
        missing = [field for field in fields if not isinstance(entry, dict) or field not in entry]
        if missing:
            raise DataError(f"{where}: entry {number} of {key!r} has no {missing[0]!r}")
    return found


def by_id(
    content: Mapping[str, Any], key: str, fields: Sequence[str], where: str, name: str = ""
) -> dict[int | str, dict[str, Any]]:
    """Returns the entries of one of the lists by their ids. Those without an id are left out.

    Args:
        content: Content of the file.
        key: Name of the list.
        fields: Keys of each entry.
        where: Name of the file, for messages.
        name: Key of an entry's name, for messages.

    Raises:
        DataError: The list is malformed, an id is neither an integer nor a text, or two entries have the same.
    """
    found: dict[int | str, dict[str, Any]] = {}
    places: dict[int | str, int] = {}
    for number, entry in enumerate(entries(content, key, fields, where), 1):
        own = entry.get("id")
        if own is None and "id" not in fields:
            continue
        if isinstance(own, bool) or not isinstance(own, int | str):
            raise DataError(
                f"{where}: the id of entry {number} of {key!r} must be an integer or a text, not {own!r:.60}"
            )
        if own in found:
            pair = [(places[own], found[own]), (number, entry)]
            both = " and ".join(f"{n} ({e[name]!r:.80})" if name in e else str(n) for n, e in pair)
            raise DataError(f"{where}: entries {both} of {key!r} have the same id, {own!r:.60}")
        found[own], places[own] = entry, number
    return found


def _lenient(text: str) -> object:
    """Parses JSON that may have NaN and duplicate keys; None if it is none."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found


def _is_coco(content: object) -> bool:
    """Whether an object has at least two of the three lists, and is no sample."""
    if not isinstance(content, dict) or any(key in content for key in FORM_KEYS):
        return False
    there = [content[key] for key in _KEYS if key in content]
    return len(there) >= 2 and any(isinstance(value, list) for value in there)


def _first_wrong(content: object) -> str:
    """Returns the place of the first number that is none, as " in entry 3 of 'annotations'"; "" if there is none."""
    assert isinstance(content, dict)
    for key in _KEYS:
        values = content.get(key)
        for number, entry in enumerate(values if isinstance(values, list) else [], 1):
            try:
                json.dumps(entry, allow_nan=False)
            except ValueError:
                return f" in entry {number} of {key!r}"
    return ""
