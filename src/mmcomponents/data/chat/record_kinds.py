r"""Kinds of records: conversations, documents and pairs of answers.

    chat      {"messages": [{"role": "user", "content": "<image>\nHow many?"}, …], "source": "counting"}
    document  {"text": "Plain text with <image> placeholders.", "source": "books"}
    pair      {"messages": [… ending with a user turn], "chosen": "…", "rejected": "…", "source": "preferences"}

`"clips": [[start, end] or null, …]` restricts each video to a range in seconds. Other keys are kept but not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.errors import SampleError

RecordKind = Literal["chat", "document", "pair"]

_KEYS_NAMED = 6


def record_kind(record: Mapping[str, Any]) -> RecordKind:
    """Returns the kind of a record.

    Raises:
        SampleError: The record is of no kind, or of two.
    """
    if "text" in record and "messages" in record:
        raise SampleError('wrong JSON: both "text" and "messages"')
    if isinstance(record.get("text"), str):
        return "document"
    if not isinstance(record.get("messages"), list):
        raise SampleError(_other_form(record))
    answers = [name for name in ("chosen", "rejected") if name in record]
    if not answers:
        return "chat"
    if len(answers) == 1 or not all(isinstance(record[name], str) for name in answers):
        raise SampleError('wrong JSON: a pair must have two texts, "chosen" and "rejected"')
    if record["chosen"] == record["rejected"]:
        raise SampleError("the chosen and the rejected answer are equal")
    return "pair"


def _other_form(record: Mapping[str, Any]) -> str:
    """Returns why an object is not a record; often it has another program's format."""
    for key, name in (("text", "text"), ("messages", "list")):
        if key in record:
            return f'wrong JSON: "{key}" is not a {name} ({type(record[key]).__name__})'
    names = ", ".join(json.dumps(key[:40]) for key in list(record)[:_KEYS_NAMED]) or "nothing"
    more = ", …" if len(record) > _KEYS_NAMED else ""
    return (
        f'wrong JSON: no list of "messages" and no "text", but {names}{more}: `mmcomponents data convert` makes shards'
        " from annotations in other formats"
    )


def conversation(record: Mapping[str, Any], answer: Literal["chosen", "rejected"] = "chosen") -> list[Message]:
    """Returns the messages of a chat, or of a pair with one of its answers.

    Raises:
        ConversationError: The record is a document.
    """
    kind = record_kind(record)
    if kind == "document":
        raise ConversationError("a plain document is not a conversation")
    messages: list[Message] = list(record["messages"])
    return messages if kind == "chat" else [*messages, {"role": "assistant", "content": record[answer]}]


def conversations(record: Mapping[str, Any]) -> list[list[Message]]:
    """Returns the conversation of a chat, or those of a pair with the chosen and with the rejected answer."""
    if record_kind(record) == "chat":
        return [conversation(record)]
    return [conversation(record, "chosen"), conversation(record, "rejected")]
