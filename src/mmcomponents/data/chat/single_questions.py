"""Questions of a conversation, each to be asked alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message
from mmcomponents.data.chat.template import check_roles


@dataclass(frozen=True)
class SingleQuestion:
    """A question of a conversation, to be asked alone.

    Attributes:
        messages: The system message, if the conversation has one, and the user's turn. The places of images and videos
            that came up in earlier turns are put in front of the question.
        answer: What the assistant says.
        kind: Kind of the question, "" where none is given.
        images: How many images of the conversation, from the first one on, the question uses.
        videos: The same for videos.
    """

    messages: list[Message]
    answer: str
    kind: str
    images: int
    videos: int


def single_questions(messages: Sequence[Message], kinds: Any = None) -> list[SingleQuestion]:
    """Takes a conversation apart, so that each of its questions is asked alone.

    Args:
        messages: An optional system message, then user and assistant in alternation.
        kinds: Kinds of the questions, as a record has them; what is no list is taken for none.

    Raises:
        ConversationError: Turns are not questions and answers.
    """
    check_roles(messages, "assistant")
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    named = kinds if isinstance(kinds, list) else []
    found, seen = list[SingleQuestion](), list[str]()
    for number, (question, answer) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        text = "".join(f"{mark}\n" for mark in seen) + question["content"]
        seen += re.findall(f"{IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER}", question["content"])
        kind = str(named[number]) if number < len(named) else ""
        asked: list[Message] = [*system, {"role": "user", "content": text}]
        images = seen.count(IMAGE_PLACEHOLDER)
        found.append(SingleQuestion(asked, answer["content"], kind, images, len(seen) - images))
    return found
