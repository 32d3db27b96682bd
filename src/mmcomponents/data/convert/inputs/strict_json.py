"""Strict JSON parser: standard-conforming, without duplicate keys, with messages for the author of the file."""

from __future__ import annotations

import json
from typing import Any

from mmcomponents.data.convert.wording import beginning
from mmcomponents.data.format.records import MAX_DEPTH, is_too_deep

TOO_DEEP = "the JSON is nested too deeply"


class JsonProblem(ValueError):
    """A text is not strict JSON.

    Attributes:
        line: Number of the line, from 1; 0: unknown.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def parse_json(text: str) -> object:
    """Parses a text.

    Raises:
        JsonProblem: The text is not JSON, or has NaN, an infinity, a duplicate key or a number with too many digits.
    """
    try:
        value: object = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except JsonProblem:
        raise
    except json.JSONDecodeError as error:
        raise JsonProblem(f"{error.msg} at character {error.colno}", error.lineno) from None
    except RecursionError:
        raise JsonProblem(TOO_DEEP) from None
    except ValueError:  # Python's limit on the digits of an integer
        raise JsonProblem("a number has too many digits") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value):
        raise JsonProblem(TOO_DEEP)
    return value


def _no_number(name: str) -> float:
    raise JsonProblem(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonProblem(f"duplicate key {beginning(key)!r} in an object")
            seen.add(key)
    return found
