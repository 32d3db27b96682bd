"""Samples as they are stored in a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcomponents.data.chat.kinds import Kinds, RecordKind, kind_name
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import parse_object
from mmcomponents.data.format.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Member,
    json_member,
    media_members,
    read_members,
)


@dataclass(frozen=True)
class StoredSample:
    """A sample as stored in a shard.

    Attributes:
        record: Its JSON, see `mmcomponents.data.chat.kinds`.
        kind: Record kind that matches the JSON.
        images: Contents of the image files, in the order of their placeholders.
        videos: Contents of the video files, in the order of their placeholders.
        members: Contents of the further members that the kind declares, by suffix.
    """

    record: dict[str, Any]
    kind: RecordKind
    images: list[bytes]
    videos: list[bytes]
    members: dict[str, bytes]


def read_sample(shard: str, members: Sequence[Member], kinds: Kinds) -> StoredSample:
    """Reads a sample.

    Args:
        shard: Path or address of the shard.
        members: Files of the sample.
        kinds: Record kinds of the run.

    Raises:
        SampleError: The JSON is invalid or missing, no kind matches, the shard is missing or truncated, or a member
            that the kind declares is missing.
    """
    own = [member for member in members if member.suffix in kinds.members]
    others = [member for member in members if member.suffix not in kinds.members]
    images, videos = media_members(others, IMAGE_SUFFIXES), media_members(others, VIDEO_SUFFIXES)
    text, *data = read_members(shard, [json_member(members), *images, *videos, *own])
    record = parse_object(text)
    kind, media = kinds.of(record), len(images) + len(videos)
    further = dict(zip([member.suffix for member in own], data[media:], strict=True))
    if missing := [suffix for suffix in kind.members if suffix not in further]:
        raise SampleError(
            f"the member .{missing[0]} is missing, which samples of the kind {kind_name(kind)} have beside .json"
        )
    return StoredSample(
        record,
        kind,
        data[: len(images)],
        data[len(images) : media],
        {suffix: further[suffix] for suffix in kind.members},
    )
