"""Parsing and validation of records, the JSON of samples; see `mmcomponents.data.chat.kinds` for the kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmcomponents.data.errors import SampleError

Clip = tuple[float, float]

MAX_DEPTH = 100
"""Largest depth of a JSON text. A text that can just be parsed can no longer be written or shown."""


def is_too_deep(value: object) -> bool:
    """Whether a JSON value is nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [inner for part in parts for inner in part]
    return any(isinstance(part, dict | list) for part in level)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        SampleError: The data is not a JSON object.
    """
    try:
        record = json.loads(data)
    except RecursionError:
        raise SampleError(f"wrong JSON: it is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # invalid UTF-8 raises a ValueError as well
        raise SampleError(f"wrong JSON: {error}") from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and is_too_deep(record):
        raise SampleError(f"wrong JSON: it is nested more than {MAX_DEPTH} deep")
    if not isinstance(record, dict):
        raise SampleError(f"wrong JSON: expected an object, got {type(record).__name__}")
    return record


def source_of(record: Mapping[str, Any]) -> str:
    """Returns the name of a record's source, or "" if it has none or one that is not a string."""
    source = record.get("source")
    return source if isinstance(source, str) else ""


def clips(record: Mapping[str, Any], videos: int) -> list[Clip | None]:
    """Returns the [start, end] of each video's clip in seconds; None: the complete video.

    Raises:
        SampleError: The entries are not one pair of numbers or null for each video.
    """
    given = record.get("clips")
    if given is None:
        return [None] * videos
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != videos:
        raise SampleError(f'"clips" must be a list of {videos} entries, one for each video, not {given!r:.80}')
    found: list[Clip | None] = []
    for clip in given:
        # Values above a billion seconds are errors, and integers may exceed the range of floats.
        numbers = (
            isinstance(clip, list)
            and len(clip) == 2
            and all(type(second) in (int, float) and abs(second) < 1e9 for second in clip)
        )
        if clip is not None and not numbers:
            raise SampleError(f"a clip must be [start, end] in seconds, not {clip!r:.80}")
        found.append(None if clip is None else (float(clip[0]), float(clip[1])))
    return found
