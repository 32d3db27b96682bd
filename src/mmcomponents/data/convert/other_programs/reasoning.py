"""Reasoning of an answer beside its content, as other programs store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.data.convert.reading import Reasoning
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import kind_name

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def with_reasoning(turn: Mapping[str, Any], text: str, role: str, number: int, treatment: Reasoning) -> str:
    r"""Returns the text of a turn with its reasoning, as `<think>\n…\n</think>\n\n` before the answer.

    This is the form of Qwen3's and InternVL3.5's chat templates. It is a part of the answer and trained on in every
    turn.

    Args:
        turn: The turn in the annotation.
        text: Text of the turn without the reasoning.
        role: Who speaks, such as "assistant".
        number: Number of the turn, from 1.
        treatment: Treatment of the reasoning.

    Raises:
        Refused: The turn has reasoning, and it is refused, is not a text, or is not the assistant's.
    """
    given = [key for key in REASONING_KEYS if turn.get(key) not in (None, "", [])]
    if not given:
        return text
    key, reasoning = given[0], turn[given[0]]
    if treatment == "refuse":
        hint = "--reasoning think writes it into the answer, as <think>…</think>"
        raise Refused("unsupported", f"turn {number} has {key!r}, a text beside its content: {hint}")
    if any(turn[other] != reasoning for other in given[1:]):
        raise Refused("bad_field", f"turn {number}: {key!r} and {given[1]!r} differ")
    if not isinstance(reasoning, str):
        raise Refused("bad_field", f"turn {number}: {key!r} must be a text, not {kind_name(reasoning)}")
    if role != "assistant":
        raise Refused("bad_field", f"turn {number}, of the {role}, has {key!r}; only answers may have reasoning")
    if "<think>" in text or "</think>" in text:
        raise Refused("bad_field", f"turn {number} has {key!r} beside its content, which has <think> too")
    if not text.strip():
        raise Refused("no_answer", f"turn {number} has {key!r} and no answer")
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{text.lstrip()}"
