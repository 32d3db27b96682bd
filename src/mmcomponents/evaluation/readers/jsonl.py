"""Reader of questions in JSONL files.

    {"id": 7, "image": "a.png", "question": "…", "answer": "…" or ["…", …], "options": ["…", …], "category": "…"}

"index" is an alias of "id", whose default is the line number; "kind" is an alias of "category". "image" or "images" is
a path or a list of paths, and optional. "options" is a list, or an object of letters and texts, and optional. "hint",
"source" and "split" are optional.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mmcomponents.data.convert.media_files import MediaRoot
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import parse_object, source_of
from mmcomponents.evaluation.metrics.multiple_choice import LETTERS
from mmcomponents.evaluation.readers.question_rows import Shown, check_columns, references_of, shown, user_turn
from mmcomponents.synthesis.questions import Item, Target

_COLUMNS_NAMED = 6

T = TypeVar("T")


def read_lines(path: Path, make: Callable[[int, dict[str, Any]], T | None]) -> Iterator[T | str]:
    """Reads a file with one JSON object per line; empty lines are ignored.

    Args:
        path: Path of the file.
        make: Converts a line number, starting at 1, and the object of the line; a line with the result None is ignored.

    Yields:
        The result of each line, or "FILE:LINE: reason" if the line is not an object or `make` raises `SampleError`.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    made = make(number, parse_object(line))
                except SampleError as error:
                    yield f"{path.name}:{number}: {error}"
                    continue
                if made is not None:
                    yield made
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def read_jsonl(path: Path, root: MediaRoot, answers: bool = True, split: str = "") -> Iterator[Item | str]:
    """Reads the questions of a JSONL file in the format described above.

    Args:
        path: Path of the file.
        root: Folder that image paths are relative to.
        answers: Whether answers are read; each question then needs one.
        split: Split to read; "": all.

    Yields:
        Each question, or "FILE:LINE: reason" for a line that cannot be used.

    Raises:
        DataError: The file cannot be read, or no line has a question, an answer or a split that is needed.
    """
    columns: dict[str, None] = {}
    keys: set[str] = set()
    media: dict[tuple[str, ...], Shown] = {}

    def make(number: int, record: dict[str, Any]) -> Item | None:
        columns.update(dict.fromkeys(record))
        if split and record.get("split") != split:
            return None
        key = str(record.get("id", record.get("index", number)))
        if key in keys:
            raise SampleError(f"duplicate id {key!r}")
        keys.add(key)
        return read_question(key, record, root, media, answers)

    yield from read_lines(path, make)
    if columns:
        check_columns(path, list(columns), answers, split)


def read_question(
    key: str,
    record: Mapping[str, Any],
    root: MediaRoot,
    media: dict[tuple[str, ...], Shown],
    answers: bool = True,
) -> Item:
    """Creates the question of a line.

    Args:
        key: Key of the question.
        record: Object of the line.
        root: Folder that image paths are relative to.
        media: Files and loaders of earlier lines, by image names; updated in place.
        answers: Whether the answer is read.

    Raises:
        SampleError: A value is missing or has the wrong type, or an image file is missing.
    """
    question = _column(record, "question")
    references = references_of(texts(_column(record, "answer"), "answer")) if answers else ()
    if not isinstance(question, str):
        raise SampleError('"question" is not a string')
    names = tuple(_image_names(record, root))
    if names and names not in media:  # lines with the same images share them
        media[names] = shown(partial(_read_images, root, names), len(names))
    files, load = media.get(names, (None, None))
    messages = user_turn(question, str(record.get("hint") or ""), len(names))
    target = Target(references, _options(record.get("options")))
    category = str(record.get("category") or record.get("kind") or "")
    return Item(key, messages, target, category, load, files, source_of(record), names)


def _column(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        there = ", ".join(json.dumps(str(key)[:40]) for key in list(record)[:_COLUMNS_NAMED]) or "none"
        raise SampleError(f'no "{name}"; its keys are: {there}')
    return record[name]


def texts(value: Any, name: str) -> list[str]:
    """Returns the strings of a value that is a string, a number or a list of them; None gives an empty list.

    Args:
        value: Value in a record.
        name: Name of the value in errors.

    Raises:
        SampleError: The value has another type.
    """
    if value is None:
        return []
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in given):
        raise SampleError(f'"{name}" is neither a string nor a list of strings')
    return [str(one) for one in given]


def _image_names(record: Mapping[str, Any], root: MediaRoot) -> list[str]:
    """Returns the paths or URLs of a line's images; raises `SampleError` if a file is missing."""
    name = "images" if "images" in record else "image"
    value = record.get(name) or []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise SampleError(f'"{name}" is neither a path nor a list of paths: {value!r:.80}')
    for one in names:
        is_address = "://" in one or one.startswith("data:")  # checked when it is read
        if not is_address and not (root.root / one).is_file():
            raise SampleError(f"image file not found: {root.root / one}")
    return names


def _read_images(root: MediaRoot, names: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(file.suffix, file.data) for file in map(root.image, names)]


def _options(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    given: Mapping[Any, Any] | Sequence[tuple[Any, Any]]
    if isinstance(value, dict):
        given = value
    elif isinstance(value, list) and len(value) <= len(LETTERS):
        given = list(zip(LETTERS, value, strict=False))
    else:
        raise SampleError(f'"options" is neither a list of at most {len(LETTERS)} texts nor an object')
    options = {str(letter).strip(): str(text) for letter, text in dict(given).items()}
    if bad := next((letter for letter in options if len(letter) != 1 or letter not in LETTERS), None):
        raise SampleError(f'"options" has the key {bad!r}, expected a letter from A to Z')
    return options
