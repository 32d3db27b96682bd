"""Reader of requests for pictures: a .tsv or .jsonl of questions, or shards of pictures with their texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mmcomponents.data.chat.kinds import CaptionedPicture, ReasonedPicture
from mmcomponents.data.chat.kinds.reasoned_picture import MEMBER
from mmcomponents.data.chat.picture_prompt import ASK
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import parse_object
from mmcomponents.data.format.shards import (
    IMAGE_SUFFIXES,
    Listed,
    find_shards,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.storage import is_remote, redact
from mmcomponents.evaluation.benchmarks import Benchmark, open_benchmark
from mmcomponents.evaluation.readers.question_rows import shown
from mmcomponents.evaluation.readers.shard_questions import read_stored
from mmcomponents.synthesis.questions import Item, Target

_KINDS = (CaptionedPicture(), ReasonedPicture(1, 1))
"""Kinds whose records are checked; the sizes of pictures are not part of a record."""


def open_requests(where: str, images: str | Path | None = None, split: str = "", answers: bool = True) -> Benchmark:
    """Reads requests for pictures.

    In shards, a caption is its own reference answer, and a request with a reasoning text has none; the image of such a
    request is the picture to be edited. Elsewhere a request is a question, see `open_benchmark`.

    Args:
        where: Path of a .tsv or .jsonl, or name, pattern or folder of shards.
        images: Folder that image paths in a file are relative to; None: the folder of the file.
        split: Split to read from a file with several splits; "": all.
        answers: Whether each question of a file needs a reference answer.

    Raises:
        DataError: The file is missing, malformed or without requests, a shard is remote, or two requests have the same
            key.
    """
    if Path(where).suffix.lower() in (".tsv", ".jsonl"):
        found = open_benchmark(where, images, split, answers)
        if asked := next((item for item in found.items if item.target.options), None):
            raise DataError(f"{found.name}: the request {asked.key} has options, and a picture chooses none")
        return found
    found = Benchmark(Path(where).stem.replace("*", "").strip("-_.") or "shards")
    owners: dict[str, str] = {}
    for shard in find_shards(where):
        before = len(found.items)
        found.take(_read_shard(shard))
        for item in found.items[before:]:
            if item.key in owners:
                raise DataError(f"{owners[item.key]} and {shard} both have a request with the key {item.key}")
            owners[item.key] = shard
    return found


def _read_shard(shard: str) -> Iterator[Item | str]:
    if is_remote(shard):
        raise DataError(f"{redact(shard)} is remote: download it first, requests are read from local shards")
    for listed in list_shard(shard):
        key = f"{Path(shard).stem}/{listed.key}"
        try:
            yield _item(shard, key, listed)
        except SampleError as error:
            yield f"{key}: {error}"


def _item(shard: str, key: str, listed: Listed) -> Item:
    if listed.problem:
        raise SampleError(listed.problem)
    record = parse_object(read_members(shard, [json_member(listed.members)])[0])
    kind = next((kind for kind in _KINDS if kind.matches(record)), None)
    if kind is None:
        raise SampleError('a request for a picture has the key "caption", or the keys "request" and "reasoning"')
    kind.check(record)
    if "caption" in record:
        return Item(key, [{"role": "user", "content": ASK + record["caption"]}], Target((record["caption"],)))
    members = [member for member in media_members(listed.members, IMAGE_SUFFIXES) if member.suffix != MEMBER]
    files, load = shown(partial(read_stored, shard, members), len(members)) if members else (None, None)
    return Item(key, [{"role": "user", "content": record["request"]}], Target(), media=load, files=files)
