"""Reader of questions in shards of this library; every question of a chat becomes a separate item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from mmcomponents.data.chat.kinds import Chat, Kinds
from mmcomponents.data.chat.placeholders import place_marks
from mmcomponents.data.chat.single_questions import single_questions
from mmcomponents.data.chat.template import check_roles
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import clips, parse_object, source_of
from mmcomponents.data.format.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listed,
    Member,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.data.storage import is_remote, redact
from mmcomponents.evaluation.readers.jsonl import texts
from mmcomponents.evaluation.readers.question_rows import FRAMES, Shown, references_of, shown
from mmcomponents.synthesis.questions import Item, Target


def read_shard(
    shard: str, answers: bool = True, frames: FrameSampling = FRAMES, recorded: bool = False
) -> Iterator[Item | str]:
    """Reads the questions of the chats of a shard without its index; other samples are skipped.

    Args:
        shard: Path of the shard.
        answers: Whether answers are read.
        frames: Sampling of the frames of a video.
        recorded: Whether "answer" of a record with one question replaces its assistant turn as the answer.

    Yields:
        Each question, with the key `SHARD/KEY#NUMBER` and its kind as the category, or "SHARD/KEY: reason" for a
        sample that cannot be used.

    Raises:
        DataError: The shard cannot be read or is remote.
    """
    if is_remote(shard):
        raise DataError(f"{redact(shard)} is remote: download it first, questions are read from local shards")
    for listed in list_shard(shard):
        name = f"{Path(shard).stem}/{listed.key}"
        try:
            items = _items(shard, name, listed, answers, frames, recorded)
        except SampleError as error:
            yield f"{name}: {error}"
        else:
            yield from items


def _items(shard: str, name: str, listed: Listed, answers: bool, frames: FrameSampling, recorded: bool) -> list[Item]:
    if listed.problem:
        raise SampleError(listed.problem)
    record = parse_object(read_members(shard, [json_member(listed.members)])[0])
    kinds = Kinds()
    if not any(kind.matches(record) for kind in kinds.kinds):
        keys = json.dumps(list(record)[:6])[:200]
        raise SampleError(f"only a chat has questions with known answers, and the keys of this record are {keys}")
    if not isinstance(kind := kinds.of(record), Chat):
        raise SampleError(f"a {kind.name} has no questions with known answers")
    pictures = media_members(listed.members, IMAGE_SUFFIXES)
    films = media_members(listed.members, VIDEO_SUFFIXES)
    cuts, given = clips(record, len(films)), record.get("clips")
    messages = record["messages"]
    check_roles(messages, "assistant")
    asked = single_questions(place_marks(messages, len(pictures), len(films)), record.get("kinds"))
    media: dict[tuple[int, int], Shown] = {}
    items = []
    for number, one in enumerate(asked):
        count = one.images, one.videos
        if any(count) and count not in media:  # questions with the same media share them
            members = [*pictures[: one.images], *films[: one.videos]]
            media[count] = shown(partial(read_stored, shard, members), one.images, cuts[: one.videos], frames)
        files, load = media.get(count, (None, None))
        has_answer = recorded and "answer" in record and len(asked) == 1
        given_answers = texts(record["answer"], "answer") if has_answer else [one.answer]
        target = Target(references_of(given_answers) if answers else ())
        seconds = given[: one.videos] if given and one.videos else None
        key, source = f"{name}#{number}", source_of(record)
        items.append(Item(key, one.messages, target, one.kind, load, files, source, clips=seconds))
    return items


def read_stored(shard: str, members: Sequence[Member]) -> list[tuple[str, bytes]]:
    """Returns (suffix, contents) of members of a shard."""
    data = read_members(shard, members)
    return [(member.suffix.rpartition(".")[2], file) for member, file in zip(members, data, strict=True)]
