"""Making the index of shards: one walk through each tar file, see `mmcomponents.data.index_file` for what is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.images import image_size
from mmcomponents.data.index_file import VERSION, Header, ShardIndex, index_path, save_index
from mmcomponents.data.placeholders import FRAME_TEMPLATE
from mmcomponents.data.records import Clip, clips, conversation, parse_record, record_kind
from mmcomponents.data.rendering import render_record
from mmcomponents.data.rows import PER_SAMPLE, Rows
from mmcomponents.data.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Member,
    find_shards,
    json_member,
    list_shard,
    media_members,
    read_members,
)
from mmcomponents.data.storage import fetch, is_remote
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer
from mmcomponents.data.video import video_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_REASON = 500
"""Characters of a reason that are kept: it may quote what is wrong, and a header holds a hundred megabytes at most."""
MAX_SOURCE = 200
"""Characters of the name of a source; a longer one is a text that got there by mistake."""


def build_index(
    shard: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path | None = None,
    frame_template: str = FRAME_TEMPLATE,
) -> Path:
    """Makes the index of one shard from the tar file alone, and returns its path.

    A sample that cannot be used is indexed with its problem, so that it is counted and named by every run.

    Args:
        shard: The tar file. A remote one is fetched for the time that it takes.
        tokenizer: The tokenizer that the runs will use.
        folder: Where the index is put; None: beside the shard.
        frame_template: Text of one frame of a video, see `frame_prompt`.

    Raises:
        DataError: The shard is no tar file, or it is remote and no folder is given.
        TemplateError: The tokenizer lacks tokens of the chat template.
    """
    target = index_path(shard, folder)
    with ExitStack() as stack:
        local = Path(shard)
        if is_remote(str(shard)):
            if folder is None:
                raise DataError(f"{shard} is remote: name a folder for its index (--out FOLDER)")
            local = fetch(str(shard), Path(stack.enter_context(TemporaryDirectory(prefix="mmcomponents-"))))
        save_index(_measure_shard(local, tokenizer, frame_template), target)
    return target


def _measure_shard(shard: Path, tokenizer: PreTrainedTokenizerBase, frame_template: str) -> ShardIndex:
    rows: list[_Row] = []
    keys: list[bytes] = []
    every: list[Sequence[Member]] = []
    problems: dict[int, str] = {}
    sources: dict[str, int] = {}
    for key, members, problem in list_shard(shard):
        row = _Row(problem=problem) if problem else _measure(shard, members, tokenizer, frame_template)
        if row.problem:
            logger.warning("%s/%s cannot be used: %s", shard.stem, key, row.problem[:MAX_REASON])
            problems[len(rows)] = row.problem[:MAX_REASON]
        sources.setdefault(row.source, len(sources))
        rows.append(row)
        keys.append(key.encode("utf-8", "replace"))
        every.append(members)
    suffixes = {name: number for number, name in enumerate(sorted({m.suffix for members in every for m in members}))}
    flat = [member for members in every for member in members]
    images = [image for row in rows for image in row.images]
    videos = [video for row in rows for video in row.videos]
    values = {"source": [sources[row.source] for row in rows]}
    values |= {name: [getattr(row, name) for row in rows] for name in PER_SAMPLE if name != "source"}
    return ShardIndex(
        header=Header(
            version=VERSION,
            fingerprint=fingerprint(tokenizer),
            frame_template=frame_template,
            shard_bytes=os.path.getsize(shard),
            samples=len(rows),
            sources=list(sources),
            suffixes=list(suffixes),
            problems=problems,
        ),
        rows=Rows(
            **{name: np.array(column, bool if name == "own_system" else np.int64) for name, column in values.items()},
            image_begin=_borders([len(row.images) for row in rows]),
            image_width=np.array([width for width, _ in images], np.int64),
            image_height=np.array([height for _, height in images], np.int64),
            video_begin=_borders([len(row.videos) for row in rows]),
            video_frames=np.array([frames for frames, _ in videos], np.int64),
            video_fps=np.array([fps for _, fps in videos], np.float64),
        ),
        key_text=np.frombuffer(b"".join(keys), np.uint8),
        key_begin=_borders([len(key) for key in keys]),
        member_begin=_borders([len(members) for members in every]),
        member_suffix=np.array([suffixes[member.suffix] for member in flat], np.int64),
        member_offset=np.array([member.offset for member in flat], np.int64),
        member_size=np.array([member.size for member in flat], np.int64),
    )


def _borders(counts: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass
class _Row:
    source: str = ""
    text_tokens: int = 1
    turns: int = 0
    segments: int = 1
    own_system: bool = True
    problem: str = ""
    images: Sequence[tuple[int, int]] = ()
    videos: Sequence[tuple[int, float]] = ()


def _measure(shard: Path, members: Sequence[Member], tokenizer: PreTrainedTokenizerBase, frame_template: str) -> _Row:
    row = _Row()
    try:
        pictures, films = media_members(members, IMAGE_SUFFIXES), media_members(members, VIDEO_SUFFIXES)
        text, *data = read_members(str(shard), [json_member(members), *pictures, *films])
        record = parse_record(text)
        source = str(record.get("source", ""))
        if len(source) > MAX_SOURCE:
            raise SampleError(f"the name of the source has {len(source)} characters, more than {MAX_SOURCE}")
        row.source = source
        images = [image_size(image) for image in data[: len(pictures)]]
        cuts: Sequence[Clip | None] = clips(record, len(films))
        videos = [video_length(film, clip) for film, clip in zip(data[len(pictures) :], cuts, strict=True)]
        lengths = measure_text(record, len(images), len(videos), tokenizer, frame_template)
        row.text_tokens, row.segments = sum(lengths), len(lengths)
        kind = record_kind(record)
        if kind != "document":
            messages = conversation(record)
            row.turns = sum(message["role"] == "assistant" for message in messages)
            row.own_system = messages[0]["role"] == "system"
        row.images, row.videos = images, videos
    except SampleError as error:
        row.problem = str(error)
    return row


def measure_text(
    record: dict[str, Any],
    images: int,
    videos: int,
    tokenizer: PreTrainedTokenizerBase,
    frame_template: str = FRAME_TEMPLATE,
) -> list[int]:
    """Tokens of each segment of a sample: without rows of images, one frame for each video, without a system text.

    Args:
        record: See `mmcomponents.data.records`.
        images: Number of images.
        videos: Number of videos.
        tokenizer: Has the tokens of the chat template.
        frame_template: Text of one frame of a video.

    Raises:
        SampleError: The sample cannot be rendered.
    """
    chats, _ = render_record(record, [0] * images, [[0]] * videos, list, tokenizer, frame_template=frame_template)
    return [len(chat.input_ids) for chat in chats]


def index_shards(
    paths: list[str],
    tokenizer: str,
    out: str | None = None,
    frame_template: str = FRAME_TEMPLATE,
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Makes the index of each shard, beside it.

    Args:
        paths: Shards, patterns of them, folders or addresses.
        tokenizer: Folder of the tokenizer that the runs will use.
        out: Folder for the indices; without one they lie beside the shards. Remote shards need one.
        frame_template: Text of one frame of a video; runs must have the same.
        allow_pipe: Whether a `pipe:COMMAND` may run its shell command; its output is kept as a shard in `out`.
        progress: Called with (shards done, shards in all).

    Returns:
        Paths of the indices.

    Raises:
        DataError: There are no such shards, one is no tar file, or the tokenizer's folder is missing.
    """
    loaded = load_tokenizer(tokenizer)
    shards: list[str] = []
    for path in paths:
        if path.startswith("pipe:") and allow_pipe:
            shards.append(str(fetch(path, Path(out or "."), allow_pipe=True)))
        else:
            shards += find_shards(path)
    made = []
    for number, shard in enumerate(dict.fromkeys(shards)):
        made.append(str(build_index(shard, loaded, out, frame_template)))
        if progress is not None:
            progress(number + 1, len(shards))
    return made
