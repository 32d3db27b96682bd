"""Construction of shard indices, in one pass over each tar file. See `shard_index` for the content."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mmcomponents.data.chat.kinds import Kinds, Measured, Sample, as_sample_error
from mmcomponents.data.chat.kinds.named_kinds import named_kinds
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE, frame_prompt
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import check_template
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.columns import PER_SAMPLE, Columns, boundaries
from mmcomponents.data.format.index_content import Header, ShardIndex
from mmcomponents.data.format.reasons import ReasonCounts
from mmcomponents.data.format.records import Clip, clips, source_of
from mmcomponents.data.format.shard_index import SUFFIX, VERSION, index_path, read_header, save_index
from mmcomponents.data.format.shards import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Member, find_shards, list_shard
from mmcomponents.data.format.stored_sample import read_sample
from mmcomponents.data.media.images import TiledImage, image_size
from mmcomponents.data.media.video import video_length
from mmcomponents.data.storage import compressed_tars, exists, fetch, is_remote, redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_REASON = 500
"""Maximum number of characters kept of a reason: it may quote the input, and a header is limited to 100 MB."""
MAX_SOURCE = 200
"""Maximum length of a source name in characters; a longer one is a misplaced text."""
LOGGED = 3
"""Number of samples logged for each reason; the index holds all of them."""


def build_index(
    shard: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path | None = None,
    frame_template: str = FRAME_TEMPLATE,
    kinds: Kinds | None = None,
    tile: tuple[int, int] | None = None,
) -> Path:
    """Builds the index of one shard from the tar file alone and returns its path.

    An unusable sample is indexed with its problem, so that every run counts and names it.

    Args:
        shard: Tar file. A remote one is downloaded temporarily.
        tokenizer: Tokenizer of the runs.
        folder: Folder of the index; None: beside the shard.
        frame_template: Text of one video frame, see `frame_prompt`.
        kinds: Record kinds; None: the built-in ones.
        tile: (tile_size, tokens_per_tile) that runs must have; None: any.

    Raises:
        DataError: The shard is not a tar file, it is remote and no folder is given, or no sample can be used and the
            present index of the shard has usable ones.
        TemplateError: The tokenizer lacks tokens of the chat template.
    """
    counts = ReasonCounts()
    path, _ = _index_shard(shard, tokenizer, folder, frame_template, kinds or Kinds(), counts, tile)
    if more := sum(max(0, found.samples - LOGGED) for found in counts.listed()):
        logger.warning("%s: %d more samples cannot be used for the same reasons", path.name, more)
    return path


def _index_shard(
    shard: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path | None,
    frame_template: str,
    kinds: Kinds,
    counts: ReasonCounts,
    tile: tuple[int, int] | None = None,
) -> tuple[Path, ShardIndex]:
    """Builds one index, adds unusable samples to `counts`, and returns its path and content."""
    target = index_path(shard, folder)
    with ExitStack() as stack:
        local = Path(shard)
        if is_remote(str(shard)):
            if folder is None:
                raise DataError(f"{shard} is remote: name a folder for its index (--out FOLDER)")
            local = fetch(str(shard), Path(stack.enter_context(TemporaryDirectory(prefix="mmcomponents-"))))
        index = _measure_shard(local, tokenizer, frame_template, kinds, tile)
        _check_not_worse(index, target)
        save_index(index, target)
    for sample, reason in index.header.problems.items():
        name = f"{target.name.removesuffix(SUFFIX)}/{index.key(sample)}"
        if counts.add(reason, name) <= LOGGED:
            logger.warning("%s cannot be used: %s", name, reason)
    return target, index


def _check_not_worse(index: ShardIndex, target: Path) -> None:
    """Checks that an index without any usable sample does not replace one of the same shard that has some.

    Raises:
        DataError: It does.
    """
    header = index.header
    if not header.samples or header.usable or not target.is_file():
        return
    try:
        old = read_header(target)
    except DataError:
        return
    if old.shard_bytes == header.shard_bytes and old.usable:
        raise DataError(
            f"none of its {header.samples} samples can be used ({header.problems[0]}); its index with {old.usable}"
            f" usable ones is kept: name the record kinds with --kinds, or remove {target}"
        )


def _measure_shard(
    shard: Path,
    tokenizer: PreTrainedTokenizerBase,
    frame_template: str,
    kinds: Kinds,
    tile: tuple[int, int] | None,
) -> ShardIndex:
    measurer = _Measurer(tokenizer, frame_template, kinds)
    measured: list[_Indexed] = []
    keys: list[bytes] = []
    every: list[Sequence[Member]] = []
    problems: dict[int, str] = {}
    sources: dict[str, int] = {}
    for key, members, problem in list_shard(shard):
        sample = _Indexed(problem=problem) if problem else measurer.measure(shard, members)
        if sample.problem:
            problems[len(measured)] = sample.problem[:MAX_REASON]
        sources.setdefault(sample.source, len(sources))
        measured.append(sample)
        keys.append(key.encode("utf-8", "replace"))
        every.append(members)
    suffixes = {name: number for number, name in enumerate(sorted({m.suffix for members in every for m in members}))}
    flat = [member for members in every for member in members]
    images = [image for sample in measured for image in sample.images]
    videos = [video for sample in measured for video in sample.videos]
    paths = dict.fromkeys(sample.kind for sample in measured if sample.kind)
    third_party = {path: number for number, path in enumerate(paths, start=1)}
    values = {"source": [sources[sample.source] for sample in measured]}
    values |= {"kind": [third_party.get(sample.kind, 0) for sample in measured]}
    values |= {name: [getattr(sample.size, name) for sample in measured] for name in PER_SAMPLE if name not in values}
    return ShardIndex(
        header=Header(
            version=VERSION,
            fingerprint=fingerprint(tokenizer),
            frame_template=frame_template,
            shard_bytes=os.path.getsize(shard),
            samples=len(measured),
            sources=list(sources),
            suffixes=list(suffixes),
            problems=problems,
            kinds=list(third_party),
            tile=None if tile is None else [*tile],
        ),
        columns=Columns(
            **{name: np.array(column, bool if name == "own_system" else np.int64) for name, column in values.items()},
            image_begin=boundaries([len(sample.images) for sample in measured]),
            image_width=np.array([width for width, _ in images], np.int64),
            image_height=np.array([height for _, height in images], np.int64),
            video_begin=boundaries([len(sample.videos) for sample in measured]),
            video_frames=np.array([frames for frames, _ in videos], np.int64),
            video_fps=np.array([fps for _, fps in videos], np.float64),
        ),
        key_text=np.frombuffer(b"".join(keys), np.uint8),
        key_begin=boundaries([len(key) for key in keys]),
        member_begin=boundaries([len(members) for members in every]),
        member_suffix=np.array([suffixes[member.suffix] for member in flat], np.int64),
        member_offset=np.array([member.offset for member in flat], np.int64),
        member_size=np.array([member.size for member in flat], np.int64),
    )


_UNUSABLE = Measured(text_tokens=1, segments=1, uses=1, own_tiles=0, turns=0, own_system=True)


@dataclass
class _Indexed:
    source: str = ""
    size: Measured = _UNUSABLE
    kind: str = ""
    problem: str = ""
    images: Sequence[tuple[int, int]] = ()
    videos: Sequence[tuple[int, float]] = ()


class _Measurer:
    """Measures the samples of a shard."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame_template: str, kinds: Kinds) -> None:
        self.renderer = SampleRenderer(tokenizer, tokens_per_tile=1, frame_template=frame_template)
        self.kinds = kinds

    def measure(self, shard: Path, members: Sequence[Member]) -> _Indexed:
        sample = _Indexed()
        try:
            stored = read_sample(str(shard), members, self.kinds)
            source = source_of(stored.record)
            if len(source) > MAX_SOURCE:
                raise SampleError(f"the name of the source has {len(source)} characters, more than {MAX_SOURCE}")
            sample.source = source
            images = [image_size(image) for image in stored.images]
            cuts: Sequence[Clip | None] = clips(stored.record, len(stored.videos))
            videos = [video_length(film, clip) for film, clip in zip(stored.videos, cuts, strict=True)]
            no_tiles = [TiledImage.of_tiles(0, size) for size in images], [[TiledImage.of_tiles(0)] for _ in videos]
            with as_sample_error(stored.kind, "measure"):
                read = Sample(stored.record, *no_tiles, stored.members, files=stored.images)
                sample.size = stored.kind.measure(read, self.renderer)
            sample.kind, sample.images, sample.videos = self.kinds.path(stored.kind), images, videos
        except SampleError as error:
            sample.problem = str(error)
        return sample


@dataclass
class IndexReport:
    """Result of indexing shards.

    Attributes:
        paths: Paths of the indices that were built.
        samples: Number of samples in these shards.
        reasons: Reasons why samples cannot be used.
        failed: (shard, reason) of the shards that could not be indexed.
        notes: Further messages.
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
    kinds: list[str] | None = None,
    allowed_tokens: list[str] | None = None,
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Builds the index of each shard.

    All arguments are checked before anything is written. A shard that cannot be read does not affect the others. An
    index with usable samples is kept if no sample can be used now, as with the wrong kinds.

    Args:
        paths: Shards, patterns, folders or addresses.
        tokenizer: Folder of the tokenizer of the runs.
        out: Folder of the indices; None: beside the shards. Required for remote shards.
        frame_template: Text of one video frame; must be that of the runs.
        kinds: Names or dotted paths of all record kinds of the runs; default: chat, document and pair.
        allowed_tokens: Special tokens of the tokenizer that texts may contain as single tokens; must be those of the
            runs.
        allow_pipe: Whether a `pipe:COMMAND` may run its shell command; its output is kept as a shard in `out`.
        progress: Called with (shards done, number of shards).

    Raises:
        DataError: A shard does not exist, two shards would share an index, or the tokenizer's folder is missing.
        TemplateError: The tokenizer lacks tokens of the chat template.
        ValueError: The frame template does not contain exactly one `<image>`, or there is no such kind.
    """
    frame_prompt(1, frame_template)
    loaded, own = load_tokenizer(tokenizer, allowed_tokens), named_kinds(kinds)
    check_template(loaded, images=False)
    shards = _find(paths, out, allow_pipe)
    unread: Counter[str] = Counter()
    report = IndexReport(notes=[note for path in paths if (note := _skipped_archives(path))])
    for done, shard in enumerate(shards):
        if progress is not None:
            progress(done, len(shards))
        try:
            path, index = _index_shard(shard, loaded, out, frame_template, own, report.reasons)
        except (DataError, SampleError) as error:
            logger.warning("%s was not indexed: %s", redact(shard), error)
            report.failed.append((redact(shard), str(error)))
            continue
        report.paths.append(str(path))
        report.samples += index.header.samples
        unread.update(_unread(index, own))
    report.notes += [
        f"{count:,} samples have a member .{suffix}, which no record kind reads (--kinds)"
        for suffix, count in sorted(unread.items())
    ]
    if progress is not None:
        progress(len(shards), len(shards))
    return report


def _unread(index: ShardIndex, kinds: Kinds) -> Counter[str]:
    """Counts the members by suffix that are no JSON and no media, and that no kind declares."""
    known = ("json", *IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    names = [
        suffix not in kinds.members and suffix.rpartition(".")[2].lower() not in known
        for suffix in index.header.suffixes
    ]
    counts = np.bincount(index.member_suffix, minlength=len(names)).tolist()
    return Counter({s: n for s, n, is_unread in zip(index.header.suffixes, counts, names, strict=True) if is_unread})


def _find(paths: Sequence[str], out: str | None, allow_pipe: bool) -> list[str]:
    """Returns the distinct shards, after checking that they exist and that no two share an index."""
    plain = [path for path in paths if not (allow_pipe and path.startswith("pipe:"))]
    found = dict.fromkeys(find_shards(plain))
    # Commands run last, so that an error in another path is reported before their output is stored.
    for path in paths if allow_pipe else ():
        if path.startswith("pipe:"):
            found[str(fetch(path, Path(out or "."), allow_pipe=True))] = None
    owners: dict[Path, str] = {}
    for shard in found:
        if is_remote(shard) and out is None:
            raise DataError(f"{redact(shard)} is remote: name a folder for its index (--out FOLDER)")
        target = index_path(shard, out)
        if (other := owners.setdefault(target, shard)) != shard:
            raise DataError(f"{redact(other)} and {redact(shard)} share the index {target}: index them separately")
    try:
        missing = [redact(shard) for shard in found if not exists(shard)]
    except SampleError as error:  # from the storage; not a matter of a single sample here
        raise DataError(str(error)) from error
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"there is no shard {missing[0]}{more}")
    return list(found)


def _skipped_archives(path: str) -> str:
    names = compressed_tars(path)
    if not names:
        return ""
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    plural = "s" * (len(names) != 1)
    return f"skipped {len(names)} compressed archive{plural} in {path} ({some}): unpack to .tar first"
