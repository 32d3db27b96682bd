"""Pairs of answers in the forms of other programs: ms-swift's, LLaMA-Factory's and TRL's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcomponents.data.convert.draft import Draft, take_text
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.turns import Turn, take_turn
from mmcomponents.data.convert.wording import kind_name

KEYS = ("chosen", "rejected", "rejected_response", "rejected_messages")
"""Keys of a pair beside the turns of a conversation."""


def take_pair(draft: Draft, sample: Mapping[str, Any], turns: Sequence[Turn], reading: Reading) -> None:
    """Makes a draft of turns a pair, in place, if the annotation has a rejected answer.

    Args:
        draft: Draft of the sample; changed in place.
        sample: The annotation.
        turns: Turns that the draft was made of.
        reading: How annotations are read.

    The chosen answer is under "chosen", else it is the last turn. A last turn equal to the chosen answer is left out.

    Raises:
        Refused: An answer is no text, or it is not clear which one is chosen.
    """
    given = [key for key in KEYS[1:] if sample.get(key) is not None]
    if not given and sample.get("chosen") is None:
        return
    if len(given) > 1:
        raise Refused("bad_field", f"both {given[0]!r} and {given[1]!r} give a rejected answer")
    rejected = _answer(draft, sample, given[0] if given else "rejected", turns, reading)
    last = draft.messages[-1] if draft.messages else None
    own = last["content"] if last is not None and last["role"] == "assistant" else None
    chosen = own if sample.get("chosen") is None else _answer(draft, sample, "chosen", turns, reading)
    if chosen is None:
        raise Refused("no_answer", f"{given[0]!r} has no chosen answer beside it: the last turn is not the assistant's")
    if own is not None:
        if own != chosen:
            raise Refused("roles", "the turns must end with the user's, or with the answer under 'chosen'")
        draft.messages.pop()
    draft.answers = chosen, rejected


def _answer(draft: Draft, sample: Mapping[str, Any], key: str, turns: Sequence[Turn], reading: Reading) -> str:
    """Returns the text of an answer: a text, a turn, or turns of which it is the last."""
    value, earlier = sample.get(key), []
    if isinstance(value, list) and value:
        *earlier, value = value
    if isinstance(value, dict):
        turn = take_turn(value, len(earlier) + 1, reading, "assistant")
        if turn.role != "assistant":
            raise Refused("roles", f"the last turn under {key!r} is not the assistant's, but {turn.role!r}")
        draft.unknown += [f"{key}.{name.partition('.')[2]}" for name in turn.unknown]
        if turn.rest:
            draft.turns.append(turn.rest)
        value = turn.text
    if not isinstance(value, str):
        take_text({key: value}, key)  # the common message
        raise Refused("bad_field", f"{key!r} must be an answer, not {kind_name(value)}")
    _check_earlier(key, [take_turn(turn, number, reading) for number, turn in enumerate(earlier, start=1)], turns)
    return value


def _check_earlier(key: str, earlier: Sequence[Turn], turns: Sequence[Turn]) -> None:
    """Checks that the turns before an answer are those of the conversation, since only the answers of a pair differ."""
    own = list(turns)
    if own and own[-1].role == "assistant":
        own = own[:-1]
    if own and own[0].role == "system" and earlier and earlier[0].role != "system":
        own = own[1:]
    if earlier and [_content(turn) for turn in earlier] != [_content(turn) for turn in own]:
        raise Refused("unsupported", f"the turns before the last of {key!r} are not those of the conversation")


def _content(turn: Turn) -> tuple[object, ...]:
    return turn.role, turn.text, turn.images, turn.videos, turn.unknown
