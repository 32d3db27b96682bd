"""The questions of this library's shards: each is asked by itself, with its kind as the category."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmcomponents.data import decode_image, find_shards, place_media, read_video
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.frames import MiddleFrames
from mmcomponents.data.records import clips, conversation, parse_record, record_kind
from mmcomponents.data.samples import single_questions
from mmcomponents.data.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listed,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.storage import is_remote
from mmcomponents.inference.evaluation.benchmarks import Benchmark, Item
from mmcomponents.inference.evaluation.metrics import Target
from mmcomponents.inference.rollouts import Media

FRAMES = MiddleFrames(16)
"""Frames of a video that are looked at."""


def read_shards(where: str) -> Benchmark:
    """Reads the questions of chats; other samples are refused. An index is not needed.

    Args:
        where: A shard, a pattern of shards, or a folder with some.

    Raises:
        DataError: There are none, one cannot be read, or they lie elsewhere than on a disk.
    """
    places = find_shards(where)
    first = Path(places[0])
    found = Benchmark(
        "-".join(part for part in (first.parent.name, first.stem.rpartition("-")[0] or first.stem) if part)
    )
    for shard in places:
        if is_remote(shard):
            raise DataError(f"{shard} is not on a disk; copy it to one to evaluate on it")
        for listed in list_shard(shard):
            name = f"{Path(shard).stem}/{listed.key}"
            try:
                found.items += _items(shard, name, listed)
            except SampleError as error:
                found.refused.append(f"{name}: {error}")
    return found


def _items(shard: str, name: str, listed: Listed) -> list[Item]:
    if listed.problem:
        raise SampleError(listed.problem)
    record = parse_record(read_members(shard, [json_member(listed.members)])[0])
    if record_kind(record) != "chat":
        raise SampleError(f"a {record_kind(record)} asks no questions whose answers are known")
    images = media_members(listed.members, IMAGE_SUFFIXES)
    films = media_members(listed.members, VIDEO_SUFFIXES)

    def frames() -> list[list[Image.Image]]:
        if not films:
            return []
        parts = clips(record, len(films))
        return [read_video(film, FRAMES, part) for film, part in zip(read_members(shard, films), parts, strict=True)]

    def pictures() -> list[Image.Image]:
        return [decode_image(file) for file in read_members(shard, images)] if images else []

    # The places of frames have to be known before the conversation is taken apart; images are as many as their files.
    lengths = [len(film) for film in frames()]
    numbers = iter(range(len(images), len(images) + sum(lengths)))
    marks = [[next(numbers) for _ in range(length)] for length in lengths]
    messages, order = place_media(conversation(record), list(range(len(images))), marks)
    system = [message for message in messages[:1] if message["role"] == "system"]
    kinds = record.get("kinds")

    def shown(count: int) -> Media:
        def load() -> tuple[list[Image.Image], list[list[Image.Image]]]:
            stills, moving = pictures(), [frame for film in frames() for frame in film]
            return [stills[n] if n < len(stills) else moving[n - len(stills)] for n in order[:count]], []

        return load

    media: dict[int, Media] = {}
    items = []
    for number, (question, answer, used) in enumerate(single_questions(messages)):
        count = len(order) if len(order) == 1 else used
        if count and count not in media:  # questions that see the same images share them
            media[count] = shown(count)
        kind = str(kinds[number]) if isinstance(kinds, list) and number < len(kinds) else ""
        asked = [*system, {"role": "user", "content": question}]
        items.append(Item(f"{name}#{number}", asked, Target((answer,)), kind, media.get(count)))
    return items
