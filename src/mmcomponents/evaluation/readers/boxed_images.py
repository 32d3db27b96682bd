"""Reader of images with boxes in shards of this library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.kinds import BoxedImage
from mmcomponents.data.chat.kinds.boxed_image import true_boxes
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
from mmcomponents.data.media.exif_turns import TURNS
from mmcomponents.data.storage import is_remote, redact


@dataclass(frozen=True)
class StoredImage:
    """An image with its true boxes.

    Attributes:
        key: `SHARD/KEY`.
        true: `boxes`, `labels` and `size`, and perhaps `areas` and `crowds`, see `BoxedImage`.
        shard: Path of the shard.
        member: Place of the image in it.
        coco_id: Id of the image in the file of COCO that it is of; None: there is none.
        turned_by: EXIF orientation by which the conversion turned the boxes; None: it did not.
    """

    key: str
    true: dict[str, Any]
    shard: str
    member: Member
    coco_id: int | str | None = None
    turned_by: int | None = None

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
    own, turn = record.get("coco_id"), record.get("turned_by")
    coco_id = own if isinstance(own, int | str) else None
    return StoredImage(key, true_boxes(record), shard, pictures[0], coco_id, turn if turn in TURNS else None)


def stored_categories(shards: Sequence[str]) -> list[dict[str, Any]] | None:
    """Returns the category of each label, from the `pack.json` that `data convert` wrote beside the shards.

    Args:
        shards: Paths of local shards.

    Returns:
        `id` and perhaps `name` of each; None if a folder has none, or two folders have different ones.
    """
    found: list[Any] = []
    for folder in dict.fromkeys(Path(shard).parent for shard in shards):
        try:
            content = parse_object((folder / "pack.json").read_bytes())
        except (OSError, SampleError):
            return None
        found.append(content.get("categories"))
    valid = found and isinstance(found[0], list) and found[0] and all(other == found[0] for other in found)
    return found[0] if valid and all(isinstance(one, dict) and "id" in one for one in found[0]) else None
