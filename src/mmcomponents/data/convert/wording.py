"""Helpers for the wording of messages."""

from __future__ import annotations

_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}


def kind_name(value: object) -> str:
    """Describes the type of a JSON value."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun in singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def beginning(text: str, most: int = 80) -> str:
    """Truncates a text for a message."""
    return text if len(text) <= most else f"{text[:most]}…"
