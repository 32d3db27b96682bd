r"""What the JSON of a sample may be: a conversation, a document, or a pair of answers.

    chat      {"messages": [{"role": "user", "content": "<image>\nHow many?"}, …], "source": "counting"}
    document  {"text": "Plain text, <image> where a picture stands.", "source": "books"}
    pair      {"messages": [… ending with the user's turn], "chosen": "…", "rejected": "…", "source": "preferences"}

`"clips": [[start, end] or null, …]` gives the seconds of each video that count. Other keys are kept and not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mmcomponents.data.control_text import ConversationError
from mmcomponents.data.errors import SampleError
from mmcomponents.data.placeholders import Message

RecordKind = Literal["chat", "document", "pair"]

Clip = tuple[float, float]

_KEYS_NAMED = 6


def parse_record(data: bytes) -> dict[str, Any]:
    """Parses a sample's JSON.

    Raises:
        SampleError: It is no JSON object, or neither a conversation nor a document nor a pair.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are ValueErrors too
        raise SampleError(f"wrong JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError(f"wrong JSON: {type(record).__name__} where an object belongs")
    record_kind(record)
    return record


def record_kind(record: Mapping[str, Any]) -> RecordKind:
    """What a record is.

    Raises:
        SampleError: It is none of the kinds, or of two of them.
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
        raise SampleError('wrong JSON: a pair has two texts, "chosen" and "rejected"')
    if record["chosen"] == record["rejected"]:
        raise SampleError("the chosen and the rejected answer are equal")
    return "pair"


def _other_form(record: Mapping[str, Any]) -> str:
    """What is wrong with an object that is no record: often it is another program's format."""
    for key, name in (("text", "text"), ("messages", "list")):
        if key in record:
            return f'wrong JSON: "{key}" is no {name} ({type(record[key]).__name__})'
    names = ", ".join(json.dumps(key[:40]) for key in list(record)[:_KEYS_NAMED]) or "nothing"
    more = ", …" if len(record) > _KEYS_NAMED else ""
    return (
        f'wrong JSON: no list of "messages" and no "text", but {names}{more}: `mmcomponents data pack` makes shards of'
        " annotations in other forms"
    )


def source_of(record: Mapping[str, Any]) -> str:
    """Name of a record's source; "" where it has none, or something that is no text."""
    source = record.get("source")
    return source if isinstance(source, str) else ""


def conversation(record: Mapping[str, Any], answer: Literal["chosen", "rejected"] = "chosen") -> list[Message]:
    """The messages of a chat, or of a pair with one of its answers.

    Raises:
        ConversationError: The record is a document.
    """
    kind = record_kind(record)
    if kind == "document":
        raise ConversationError("a plain document is no conversation")
    messages: list[Message] = list(record["messages"])
    return messages if kind == "chat" else [*messages, {"role": "assistant", "content": record[answer]}]


def clips(record: Mapping[str, Any], videos: int) -> list[Clip | None]:
    """The seconds of each video that count; None: all of it.

    Raises:
        SampleError: They are not a pair of numbers, or null, for each video.
    """
    given = record.get("clips")
    if given is None:
        return [None] * videos
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != videos:
        raise SampleError(f'"clips" has to be a list of {videos} entries, one for each video, not {given!r:.80}')
    found: list[Clip | None] = []
    for clip in given:
        # Beyond a billion seconds it is a mistake, and may be an integer that no float can hold.
        numbers = (
            isinstance(clip, list)
            and len(clip) == 2
            and all(type(second) in (int, float) and abs(second) < 1e9 for second in clip)
        )
        if clip is not None and not numbers:
            raise SampleError(f"a clip is [start, end] in seconds, not {clip!r:.80}")
        found.append(None if clip is None else (float(clip[0]), float(clip[1])))
    return found
