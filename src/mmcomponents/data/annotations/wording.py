"""Words that several messages need."""

from __future__ import annotations

_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}


def kind_name(value: object) -> str:
    """What a value of JSON is."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def counted(number: int, noun: str) -> str:
    """A number and its noun, which takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def beginning(text: str, most: int = 80) -> str:
    """As much of a text as a message has room for."""
    return text if len(text) <= most else f"{text[:most]}…"
