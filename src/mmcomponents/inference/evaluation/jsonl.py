"""Benchmarks as JSON lines.

    {"id": 7, "image": "a.png", "question": "…", "answer": "…" or ["…", …], "options": ["…", …], "category": "…"}

"index" stands for "id" too, and a line without either is called by its number; "image" or "images" is a path or a list
of them, and a line without it has none. "options" may be left out, or be an object of letters and texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.inference.evaluation.benchmarks import Benchmark, Item
from mmcomponents.inference.evaluation.metrics.multiple_choice import LETTERS
from mmcomponents.inference.evaluation.rows import check_columns, image_file, loader, make_item
from mmcomponents.inference.rollouts import Media


def read_jsonl(path: Path, root: Path, split: str = "") -> Benchmark:
    """Reads the questions of a JSONL file; see the top of this file.

    Args:
        path: The file.
        root: Folder that image paths start from.
        split: Lines whose split this is; "": all.

    Raises:
        DataError: It cannot be read, or no line has a question, or none an answer.
    """
    found = Benchmark(path.stem)
    seen: set[str] = set()
    columns: dict[str, None] = {}
    media: dict[tuple[str, ...], Media] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = _parsed(line)
                    columns |= dict.fromkeys(record)
                    if split and record.get("split") != split:
                        continue
                    found.items.append(_item(record, number, root, seen, media))
                except SampleError as error:
                    found.refused.append(f"{path.name} line {number}: {error}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if columns or not found.refused:
        check_columns(path, columns, [("question",), ("answer",), *([("split",)] if split else [])])
    return found


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"wrong JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError(f"wrong JSON: {type(record).__name__} where an object belongs")
    return record


def _item(
    record: Mapping[str, Any], number: int, root: Path, seen: set[str], media: dict[tuple[str, ...], Media]
) -> Item:
    key = str(record.get("id", record.get("index", number)))
    if key in seen:
        raise SampleError(f"its id {key!r} is that of another line")
    seen.add(key)
    for name in ("question", "answer"):
        if name not in record:
            raise SampleError(f'it has no "{name}"')
    if not isinstance(record["question"], str):
        raise SampleError('its "question" is no text')
    names = tuple(_texts(record.get("images", record.get("image")), "image"))
    paths = [image_file(root, name) for name in names]
    if names and names not in media:  # lines that show the same images share them
        media[names] = loader(lambda: paths)
    hint = str(record.get("hint") or "")
    question = "\n".join([*([hint] if hint else []), record["question"]])
    answers, options = _texts(record["answer"], "answer"), _options(record.get("options"))
    category = str(record.get("category") or "")
    return make_item(key, question, answers, options, category, len(names), media.get(names))


def _texts(value: Any, name: str) -> list[str]:
    """One text or several; numbers are written out."""
    if value is None:
        return []
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in given):
        raise SampleError(f'its "{name}" is no text and no list of texts')
    return [str(one) for one in given]


def _options(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    given: Mapping[Any, Any] | Sequence[tuple[Any, Any]]
    if isinstance(value, dict):
        given = value
    elif isinstance(value, list) and len(value) <= len(LETTERS):
        given = list(zip(LETTERS, value, strict=False))
    else:
        raise SampleError(f'its "options" are no list of at most {len(LETTERS)} texts and no object')
    options = {str(letter).strip(): str(text) for letter, text in dict(given).items()}
    if bad := next((letter for letter in options if len(letter) != 1 or letter not in LETTERS), None):
        raise SampleError(f'its "options" have {bad!r} where a capital letter belongs')
    return options
