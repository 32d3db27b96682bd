"""Making the index of shards: one walk through each tar file, see `mmcomponents.data.index_file` for what is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcomponents.data.control_text import check_template
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.images import image_size
from mmcomponents.data.index_file import SUFFIX, VERSION, Header, ShardIndex, index_path, save_index
from mmcomponents.data.placeholders import FRAME_TEMPLATE, frame_prompt
from mmcomponents.data.reasons import ReasonCounts
from mmcomponents.data.records import Clip, clips, conversation, parse_record, record_kind, source_of
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
from mmcomponents.data.storage import compressed_tars, exists, fetch, is_remote, redact
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer
from mmcomponents.data.video import video_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_REASON = 500
"""Characters of a reason that are kept: it may quote what is wrong, and a header holds a hundred megabytes at most."""
MAX_SOURCE = 200
"""Characters of the name of a source; a longer one is a text that got there by mistake."""
LOGGED = 3
"""Samples that the log names for each reason; all of them are in the index."""


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
    counts = ReasonCounts()
    path, _ = _index_shard(shard, tokenizer, folder, frame_template, counts)
    if more := sum(max(0, found.samples - LOGGED) for found in counts.listed()):
        logger.warning("%s: %d more samples cannot be used for the same reasons", path.name, more)
    return path


def _index_shard(
    shard: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path | None,
    frame_template: str,
    counts: ReasonCounts,
) -> tuple[Path, int]:
    """Makes one index; returns its path and the number of its samples, and counts those that cannot be used."""
    target = index_path(shard, folder)
    with ExitStack() as stack:
        local = Path(shard)
        if is_remote(str(shard)):
            if folder is None:
                raise DataError(f"{shard} is remote: name a folder for its index (--out FOLDER)")
            local = fetch(str(shard), Path(stack.enter_context(TemporaryDirectory(prefix="mmcomponents-"))))
        index = _measure_shard(local, tokenizer, frame_template)
        save_index(index, target)
    for sample, reason in index.header.problems.items():
        name = f"{target.name.removesuffix(SUFFIX)}/{index.key(sample)}"
        if counts.add(reason, name) <= LOGGED:
            logger.warning("%s cannot be used: %s", name, reason)
    return target, index.header.samples


def _measure_shard(shard: Path, tokenizer: PreTrainedTokenizerBase, frame_template: str) -> ShardIndex:
    rows: list[_Row] = []
    keys: list[bytes] = []
    every: list[Sequence[Member]] = []
    problems: dict[int, str] = {}
    sources: dict[str, int] = {}
    for key, members, problem in list_shard(shard):
        row = _Row(problem=problem) if problem else _measure(shard, members, tokenizer, frame_template)
        if row.problem:
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
        source = source_of(record)
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


@dataclass
class IndexReport:
    """What came of some shards.

    Attributes:
        paths: Of the indices that were made.
        samples: In these shards.
        reasons: Why some of the samples cannot be used.
        failed: (shard, reason) of those that could not be indexed.
        notes: What else is worth a line.
    """

    paths: list[str] = field(default_factory=list)
    samples: int = 0
    reasons: ReasonCounts = field(default_factory=ReasonCounts)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def index_shards(
    paths: list[str],
    tokenizer: str,
    out: str | None = None,
    frame_template: str = FRAME_TEMPLATE,
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Makes the index of each shard, beside it.

    All that is given is checked before anything is written. A shard that cannot be read keeps no other one waiting.

    Args:
        paths: Shards, patterns of them, folders or addresses.
        tokenizer: Folder of the tokenizer that the runs will use.
        out: Folder for the indices; without one they lie beside the shards. Remote shards need one.
        frame_template: Text of one frame of a video; runs must have the same.
        allow_pipe: Whether a `pipe:COMMAND` may run its shell command; its output is kept as a shard in `out`.
        progress: Called with (shards done, shards in all).

    Returns:
        What was made, and what could not be.

    Raises:
        DataError: There are no such shards, two would have one index, or the tokenizer's folder is missing.
        TemplateError: The tokenizer lacks tokens of the chat template.
        ValueError: The template of a frame has not one `<image>`.
    """
    frame_prompt(1, frame_template)
    loaded = load_tokenizer(tokenizer)
    check_template(loaded, images=False)
    shards = _find(paths, out, allow_pipe)
    report = IndexReport(notes=[note for path in paths if (note := _passed_over(path))])
    for done, shard in enumerate(shards):
        if progress is not None:
            progress(done, len(shards))
        try:
            path, samples = _index_shard(shard, loaded, out, frame_template, report.reasons)
        except (DataError, SampleError) as error:
            logger.warning("%s has no index: %s", redact(shard), error)
            report.failed.append((redact(shard), str(error)))
            continue
        report.paths.append(str(path))
        report.samples += samples
    if progress is not None:
        progress(len(shards), len(shards))
    return report


def _find(paths: Sequence[str], out: str | None, allow_pipe: bool) -> list[str]:
    """The shards, each once; all of them are there, and each has an index of its own."""
    plain = [path for path in paths if not (allow_pipe and path.startswith("pipe:"))]
    found = dict.fromkeys(find_shards(plain))
    # Commands run last, so that a slip in another path is told before their output is kept.
    for path in paths if allow_pipe else ():
        if path.startswith("pipe:"):
            found[str(fetch(path, Path(out or "."), allow_pipe=True))] = None
    owners: dict[Path, str] = {}
    for shard in found:
        if is_remote(shard) and out is None:
            raise DataError(f"{redact(shard)} is remote: name a folder for its index (--out FOLDER)")
        target = index_path(shard, out)
        if (other := owners.setdefault(target, shard)) != shard:
            raise DataError(f"{redact(other)} and {redact(shard)} would have one index, {target}: index them apart")
    try:
        missing = [redact(shard) for shard in found if not exists(shard)]
    except SampleError as error:  # of the storage: here it is no single sample that is missing
        raise DataError(str(error)) from error
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"there is no shard {missing[0]}{more}")
    return list(found)


def _passed_over(path: str) -> str:
    names = compressed_tars(path)
    if not names:
        return ""
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} compressed in {path} passed over ({some}): unpack them to .tar first"
