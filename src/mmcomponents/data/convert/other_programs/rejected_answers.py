"""Pairs of answers in the forms of other programs: ms-swift's, LLaMA-Factory's and TRL's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcomponents.data.convert.chat_messages import read_turn
from mmcomponents.data.convert.draft import Draft, take_text
from mmcomponents.data.convert.harmless_keys import TURN_KEYS, unknown_keys
from mmcomponents.data.convert.other_programs.reasoning import REASONING_KEYS, with_reasoning
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.unsupported import CHECKED_IN_TURNS, check_turn
from mmcomponents.data.convert.wording import kind_name

KEYS = ("chosen", "rejected", "rejected_response", "rejected_messages")
"""Keys of a pair beside the turns of a conversation."""


_USED = ("from", "value", "role", "content", *REASONING_KEYS, *CHECKED_IN_TURNS)
"""Keys of a turn that are used or checked."""


def take_pair(draft: Draft, sample: Mapping[str, Any], reading: Reading) -> None:
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
    rejected = _answer(draft, sample, given[0] if given else "rejected", reading)
    last = draft.messages[-1] if draft.messages else None
    own = last["content"] if last is not None and last["role"] == "assistant" else None
    chosen = own if sample.get("chosen") is None else _answer(draft, sample, "chosen", reading)
    if chosen is None:
        raise Refused("no_answer", f"{given[0]!r} has no chosen answer beside it: the last turn is not the assistant's")
    if own is not None:
        if own != chosen:
            raise Refused("roles", "the turns must end with the user's, or with the answer under 'chosen'")
        draft.messages.pop()
    draft.answers = chosen, rejected


def _answer(draft: Draft, sample: Mapping[str, Any], key: str, reading: Reading) -> str:
    """Returns the text of an answer: a text, a turn, or turns of which it is the last."""
    value, earlier = sample.get(key), []
    if isinstance(value, list) and value:
        *earlier, value = value
    if isinstance(value, dict):
        role = value.get("role", value.get("from", "assistant"))
        if role not in ("assistant", "gpt"):
            raise Refused("roles", f"the last turn under {key!r} is not the assistant's, but {str(role)[:40]!r}")
        check_turn(value, "assistant", len(earlier) + 1)
        turn = read_turn(value.get("content", value.get("value")), "assistant", len(earlier) + 1)
        draft.unknown += [f"{key}.{name}" for name in unknown_keys(value, TURN_KEYS, _USED)] + turn.unknown
        value = with_reasoning(value, turn.text, "assistant", len(earlier) + 1, reading.reasoning)
    if not isinstance(value, str):
        take_text({key: value}, key)  # the common message
        raise Refused("bad_field", f"{key!r} must be an answer, not {kind_name(value)}")
    _check_earlier(draft, key, earlier)
    return value


def _check_earlier(draft: Draft, key: str, earlier: Sequence[Any]) -> None:
    """Checks that the turns before an answer are those of the conversation, since only the answers of a pair differ."""
    if not earlier:
        return
    own = [turn for turn in draft.messages if turn["role"] != "system"]
    if own and own[-1]["role"] == "assistant":
        own = own[:-1]
    given = [turn for turn in earlier if isinstance(turn, dict) and turn.get("role", turn.get("from")) != "system"]
    texts = [
        read_turn(turn.get("content", turn.get("value")), "user", number).text for number, turn in enumerate(given)
    ]
    if texts != [turn["content"] for turn in own]:
        raise Refused("unsupported", f"the turns before the last of {key!r} are not those of the conversation")
