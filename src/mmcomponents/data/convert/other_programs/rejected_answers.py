"""Pairs of answers in the forms of other programs: ms-swift's, LLaMA-Factory's and TRL's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.data.convert.draft import Draft, take_text
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import kind_name

KEYS = ("chosen", "rejected", "rejected_response", "rejected_messages")
"""Keys of a pair beside the turns of a conversation."""


def take_pair(draft: Draft, sample: Mapping[str, Any]) -> None:
    """Makes a draft of turns a pair, in place, if the annotation has a rejected answer.

    The chosen answer is under "chosen", else it is the last turn. A last turn equal to the chosen answer is left out.

    Raises:
        Refused: An answer is no text, or it is not clear which one is chosen.
    """
    given = [key for key in KEYS[1:] if sample.get(key) is not None]
    if not given and sample.get("chosen") is None:
        return
    if len(given) > 1:
        raise Refused("bad_field", f"both {given[0]!r} and {given[1]!r} give a rejected answer")
    rejected = _answer(sample, given[0] if given else "rejected")
    last = draft.messages[-1] if draft.messages else None
    own = last["content"] if last is not None and last["role"] == "assistant" else None
    chosen = own if sample.get("chosen") is None else _answer(sample, "chosen")
    if chosen is None:
        raise Refused("no_answer", f"{given[0]!r} has no chosen answer beside it: the last turn is not the assistant's")
    if own is not None:
        if own != chosen:
            raise Refused("roles", "the turns must end with the user's, or with the answer under 'chosen'")
        draft.messages.pop()
    draft.answers = chosen, rejected


def _answer(sample: Mapping[str, Any], key: str) -> str:
    """Returns the text of an answer: a text, a turn, or turns of which it is the last."""
    value = sample.get(key)
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        role = value.get("role", value.get("from", "assistant"))
        if role not in ("assistant", "gpt"):
            raise Refused("roles", f"the last turn under {key!r} is not the assistant's, but {str(role)[:40]!r}")
        value = value.get("content", value.get("value"))
    if not isinstance(value, str):
        take_text({key: value}, key)  # the common message
        raise Refused("bad_field", f"{key!r} must be an answer, not {kind_name(value)}")
    return value
