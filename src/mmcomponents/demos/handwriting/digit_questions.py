"""Questions about scenes of digits, with a single right answer that follows from the digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcomponents.demos.handwriting.scenes import Order

KINDS = ("read", "count", "largest", "add", "describe")

PHRASINGS: dict[str, tuple[str, ...]] = {
    "read": (
        "Read the digits in order.",
        "Which digits are written here?",
        "What does the handwriting say?",
        "Please read out the digits.",
    ),
    "count": (
        "How many digits are there?",
        "Count the digits.",
        "What is the number of digits in the image?",
        "How many digits do you see?",
    ),
    "largest": (
        "Which digit is the largest?",
        "What is the highest digit in the image?",
        "Name the digit with the greatest value.",
        "Which of the digits is the biggest number?",
    ),
    "add": (
        "Add up the digits, step by step.",
        "What is the sum of the digits? Show the steps.",
        "Work out the total of all digits step by step.",
        "Sum the digits and write out each step.",
    ),
    "describe": (
        "Describe the image.",
        "What is in the image?",
        "Say in one sentence what you see.",
        "Give a short description of the picture.",
    ),
}

_NUMBERS = ("", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_WAYS: dict[Order, str] = {"row": "from left to right", "column": "from top to bottom", "grid": "row by row"}


def answer(kind: str, digits: Sequence[int], order: Order) -> str:
    """Returns the right answer to a question.

    Args:
        kind: One of `KINDS`.
        digits: Digits in reading order.
        order: Arrangement of the digits.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "read":
        return " ".join(map(str, digits))
    if kind == "count":
        return str(len(digits))
    if kind == "largest":
        return str(max(digits))
    if kind == "add":
        return "\n".join([*_steps(digits), f"Answer: {sum(digits)}"])
    if kind == "describe":
        return _describe(digits, order)
    raise ValueError(f"unknown kind {kind!r} of question; known are {', '.join(KINDS)}")


def _steps(digits: Sequence[int]) -> list[str]:
    totals = np.cumsum(digits).tolist()
    return [
        f"{before} + {digit} = {after}" for before, digit, after in zip(totals, digits[1:], totals[1:], strict=False)
    ]


def _describe(digits: Sequence[int], order: Order) -> str:
    names = [f"an {digit}" if digit == 8 else f"a {digit}" for digit in digits]
    head = _NUMBERS[len(digits)] if len(digits) < len(_NUMBERS) else str(len(digits))
    if len(digits) == 1:
        return f"{head} digit: {names[0]}."
    if len(digits) == 2 and order != "grid":
        first, second = ("at the top", "at the bottom") if order == "column" else ("on the left", "on the right")
        return f"{head} digits: {names[0]} {first} and {names[1]} {second}."
    return f"{head} digits {_WAYS[order]}: {', '.join(names[:-1])} and {names[-1]}."


def conversation(
    digits: Sequence[int], order: Order, kinds: Sequence[str], generator: np.random.Generator
) -> list[dict[str, str]]:
    """Writes a conversation about one image: a question of each kind, in the given order, with random phrasing."""
    messages = []
    for number, kind in enumerate(kinds):
        question = PHRASINGS[kind][int(generator.integers(len(PHRASINGS[kind])))]
        messages.append({"role": "user", "content": f"<image>\n{question}" if number == 0 else question})
        messages.append({"role": "assistant", "content": answer(kind, digits, order)})
    return messages
