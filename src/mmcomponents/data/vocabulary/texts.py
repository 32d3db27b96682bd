"""Texts of files: shards, JSON lines and plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmcomponents.data.convert.inputs.json_list import is_list, read_elements
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import parse_object
from mmcomponents.data.format.shards import Listed, Member, find_shards, json_member, list_shard, read_members

_TEXTS = ("value", "text", "texts", "content", "question", "answer", "chosen", "rejected", "caption")
"""Keys whose strings are text, at any depth of a record."""

_PLACEHOLDERS = re.compile(r"<(image|video)>\n?")
_TOGETHER = 1000
"""Samples of a shard that are read in one call."""


def texts_of(paths: Sequence[str]) -> Iterator[str]:
    """Yields the texts of files: of records the strings of messages, answers and documents, without placeholders.

    Args:
        paths: Shards, patterns and folders of shards, lists of records (`.json`), records a line (`.jsonl`), or texts a
            line (`.txt`).

    Raises:
        DataError: A file cannot be read or a line is no record. Samples that cannot be read are an error too.
    """
    for path in paths:
        file = Path(path)
        if file.suffix in (".txt", ".jsonl"):
            yield from _lines(file)
        elif file.suffix == ".json":
            for number, (text, _) in enumerate(_elements(file), 1):
                yield from _parsed(text.encode("utf-8", "surrogatepass"), f"{file}, element {number}")
        else:
            for shard in find_shards(path):
                yield from _samples(shard)


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if file.suffix == ".txt":
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
                elif line.strip():
                    yield from _parsed(line, f"{file}, line {number}")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _elements(file: Path) -> Iterator[tuple[str, int]]:
    try:
        if not is_list(file):
            raise DataError(f"{file} is not a JSON list")
        yield from read_elements(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _samples(shard: str) -> Iterator[str]:
    remaining = list_shard(shard)
    while listed := list(islice(remaining, _TOGETHER)):
        members = [_text_member(found, shard) for found in listed]
        for found, data in zip(listed, read_members(shard, members), strict=True):
            yield from _parsed(data, f"{shard}, sample {found.key}")


def _text_member(found: Listed, shard: str) -> Member:
    try:
        if found.problem:
            raise SampleError(found.problem)
        return json_member(found.members)
    except SampleError as error:
        raise DataError(f"{shard}, sample {found.key}: {error}") from error


def _parsed(data: bytes, where: str) -> Iterator[str]:
    try:
        record = parse_object(data)
    except SampleError as error:
        raise DataError(f"{where}: {error}") from error
    return _strings(record)


def _strings(record: dict[str, Any]) -> Iterator[str]:
    for key, value in record.items():
        yield from _inner(value, key in _TEXTS)


def _inner(value: Any, is_text: bool) -> Iterable[str]:
    if isinstance(value, str):
        return [_PLACEHOLDERS.sub("", value)] if is_text else []
    if isinstance(value, dict):
        return _strings(value)
    return (text for item in value for text in _inner(item, is_text)) if isinstance(value, list) else []
