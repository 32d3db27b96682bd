"""Checks of a sample's texts, turns, answers and placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mmcomponents.data.chat.placeholders import (
    IMAGE_PLACEHOLDER,
    VIDEO_PLACEHOLDER,
    Message,
    check_places,
    count_placeholders,
)
from mmcomponents.data.chat.placeholders import _place as place_one
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.convert.draft import Draft, check_answers
from mmcomponents.data.convert.inputs.strict_json import TOO_DEEP
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import counted
from mmcomponents.data.media.boxes import SCALE, parse_groundings

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|[\ud800-\udfff]")
"""All control characters except tab, line feed and carriage return, and halves of surrogate pairs."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEEPEST = 100


def check_draft(draft: Draft) -> None:
    r"""Checks that a sample can be used, and adds missing `<image>\n` and `<video>\n` placeholders.

    Raises:
        Refused: The sample cannot be used.
    """
    for place, text in _texts(draft):
        found = _CONTROL.search(text)
        if found:
            what = "half of a surrogate pair" if _SURROGATE.match(found.group()) else "the control character"
            raise Refused("bad_text", f"{place} has {what} U+{ord(found.group()):04X} at character {found.start()}")
    if draft.is_record:
        return  # its kind checks it
    if draft.text is None:
        _check_turns(draft)
    elif not draft.text.strip():
        raise Refused("empty", "the document has no text")
    elif not draft.images and not draft.videos:
        return  # here <image> is ordinary text, which is frequent in pages about the web
    _place_media(draft)


def box_problem(draft: Draft) -> str:
    """Describes the first invalid box in the answers; "" if all boxes are valid.

    To the model a box is ordinary text, so such a sample is reported, but used.
    """
    answers = [message["content"] for message in draft.messages if message["role"] == "assistant"]
    for answer in (*answers, *(draft.answers or ())):
        if "<box>" in answer or "</box>" in answer:
            problems = parse_groundings(answer, SCALE, SCALE).problems
            if problems:
                return problems[0]
    return ""


def _place_media(draft: Draft) -> None:
    """Places and counts the placeholders; those of a document like those of a user's turn."""
    messages: list[Message] = list(draft.messages)
    if draft.text is not None:
        messages = [{"role": "user", "content": draft.text}]
    kinds = ((VIDEO_PLACEHOLDER, draft.videos), (IMAGE_PLACEHOLDER, draft.images))
    answers: list[Message] = [{"role": "assistant", "content": answer} for answer in draft.answers or ()]
    for placeholder, media in kinds:
        try:
            check_places([*messages, *answers], len(media), placeholder)
        except ConversationError as error:
            raise Refused("placeholders", str(error)) from error
        messages = place_one(messages, len(media), placeholder)
    for placeholder, media in kinds:
        found = count_placeholders(messages, placeholder)
        if found != len(media):
            where = "the user's turns" if draft.text is None else "the text"
            given = counted(len(media), placeholder.strip("<>"))
            raise Refused("placeholders", f"{found} {placeholder} in {where}, {given}")
    if draft.text is None:
        draft.messages = [dict(message) for message in messages]
    else:
        draft.text = messages[0]["content"]


def _texts(draft: Draft) -> Iterator[tuple[str, str]]:
    """Yields each text that is written to the shard, with a name of its position."""
    if draft.text is not None:
        yield "the text", draft.text
    for number, message in enumerate(draft.messages, start=1):
        yield f"turn {number}", message["content"]
    for name, answer in zip(("chosen", "rejected"), draft.answers or (), strict=False):
        yield f"the {name} answer", answer
    for name in draft.objects.refs if draft.objects else ():
        yield "a name of 'objects'", name
    for key, value in (*draft.kept.items(), *(("turns", turn) for turn in draft.turns)):
        yield "a key", key
        for text in _strings(value):
            if _SURROGATE.search(text):  # control characters are allowed in values that are only kept
                yield f"the value of {key!r}", text


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        raise Refused("bad_json", TOO_DEEP)
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _strings(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, depth + 1)


def _check_turns(draft: Draft) -> None:
    roles = [message["role"] for message in draft.messages]
    if not roles:
        raise Refused("empty", "the conversation has no turn")
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns:
        raise Refused("empty", "the conversation has only a system turn")
    for number, role in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if role != wanted:
            raise Refused("roles", f"turn {number + 1} of {len(turns)} is the {role}'s, must be the {wanted}'s")
    if draft.answers is None:
        if turns[-1] != "assistant":
            raise Refused("no_answer", f"turn {len(turns)}, the last, is the user's, without an answer")
    elif turns[-1] != "user":
        raise Refused("roles", "the turns before a chosen and a rejected answer must end with the user's")
    answers = [message["content"] for message in draft.messages if message["role"] == "assistant"]
    for answer in (*answers, *(draft.answers or ())):
        if not answer.strip():
            raise Refused("no_answer", "an answer is empty")
    if draft.objects is None:  # otherwise once they are placed
        check_answers(draft)
