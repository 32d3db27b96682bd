"""Scores of answers."""

from __future__ import annotations


def exact_match(answer: str, prediction: str) -> bool:
    """Whether two answers are alike but for white space at the ends and trailing white space of lines."""
    return _normal(answer) == _normal(prediction)


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
