"""JSON as its standard has it, no key of an object twice, and messages that make sense to who wrote the file."""

from __future__ import annotations

import json
from typing import Any

from mmcomponents.data.annotations.wording import beginning

TOO_DEEP = "the JSON is nested too deeply"


class JsonProblem(ValueError):
    """A text is no JSON, or says something twice.

    Attributes:
        line: Where, from 1 on; 0: not told.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def parse_json(text: str) -> object:
    """Parses a text.

    Raises:
        JsonProblem: It is no JSON, has NaN or an infinity, a key twice in one object, or a number of too many digits.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except JsonProblem:
        raise
    except json.JSONDecodeError as error:
        raise JsonProblem(f"{error.msg} at character {error.colno}", error.lineno) from None
    except RecursionError:
        raise JsonProblem(TOO_DEEP) from None
    except ValueError:  # Python's limit for the digits of a whole number
        raise JsonProblem("a number has more digits than can be read") from None


def _no_number(name: str) -> float:
    raise JsonProblem(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonProblem(f"the key {beginning(key)!r} comes twice in one object")
            seen.add(key)
    return found
