"""Reader of images with boxes in shards of this library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.kinds import BoxedImage
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import parse_object
from mmcomponents.data.format.shards import (
    IMAGE_SUFFIXES,
    Listed,
    Member,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.storage import is_remote, redact


@dataclass(frozen=True)
class StoredImage:
    """An image with its true boxes.

    Attributes:
        key: `SHARD/KEY`.
        true: `boxes`, `labels` and `size`, see `BoxedImage`.
        shard: Path of the shard.
        member: Place of the image in it.
    """

    key: str
    true: dict[str, Any]
    shard: str
    member: Member

    def read(self) -> bytes:
        """Returns the file of the image."""
        return read_members(self.shard, [self.member])[0]


def read_boxed_images(shards: Sequence[str], refused: list[str], limit: int | None = None) -> Iterator[StoredImage]:
    """Reads the images with boxes of shards, without their index.

    Args:
        shards: Paths of shards.
        refused: "SHARD/KEY: reason" is added for each sample that cannot be used.
        limit: Largest number of images. None: all.

    Yields:
        The images, in the order of the shards.

    Raises:
        DataError: A shard cannot be read or is remote, or two images have the same key.
    """
    seen: dict[str, str] = {}
    for shard in shards:
        if is_remote(shard):
            raise DataError(f"{redact(shard)} is remote: download it first, images are read from local shards")
        for listed in list_shard(shard):
            if limit is not None and len(seen) == limit:
                return
            key = f"{Path(shard).stem}/{listed.key}"
            try:
                image = _image(shard, key, listed)
            except SampleError as error:
                refused.append(f"{key}: {error}")
                continue
            if key in seen:
                raise DataError(f"{shard} and {seen[key]} both have an image {key}: evaluate them separately")
            seen[key] = shard
            yield image


def _image(shard: str, key: str, listed: Listed) -> StoredImage:
    if listed.problem:
        raise SampleError(listed.problem)
    record, kind = parse_object(read_members(shard, [json_member(listed.members)])[0]), BoxedImage()
    if not kind.matches(record):
        raise SampleError('an image with boxes has the keys "boxes" and "labels"')
    kind.check(record)
    pictures = media_members(listed.members, IMAGE_SUFFIXES)
    if len(pictures) != 1:
        raise SampleError(f"boxes are of one image, and the sample has {len(pictures)}")
    return StoredImage(key, {name: record[name] for name in ("boxes", "labels", "size")}, shard, pictures[0])
