"""Conversion of one chunk of annotations to a shard with its index."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.data.chat.kinds import BoxedImage, RecordKind, Sample, kind_name
from mmcomponents.data.chat.kinds.named_kinds import named_kinds
from mmcomponents.data.chat.special_tokens import CONTROL_TOKENS, TemplateError, codec
from mmcomponents.data.convert.annotation_formats import read_draft
from mmcomponents.data.convert.budget import Budget
from mmcomponents.data.convert.checks import box_problem, check_draft
from mmcomponents.data.convert.document_split import split_document
from mmcomponents.data.convert.draft import Draft
from mmcomponents.data.convert.inputs.chunks import Chunk
from mmcomponents.data.convert.inputs.json_list import read_elements
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.inputs.strict_json import TOO_DEEP, JsonProblem, parse_json
from mmcomponents.data.convert.inputs.table_rows import read_rows
from mmcomponents.data.convert.media_files import MediaFile, MediaRoot
from mmcomponents.data.convert.other_programs.objects import place_objects
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.resume_state import Note, State, Totals
from mmcomponents.data.convert.turned_boxes import pixel_sizes, turn_boxes, upright_record
from mmcomponents.data.convert.wording import beginning
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import MAX_JSON, Shard, open_shard
from mmcomponents.data.storage.regular_file import open_regular

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LINE = 256_000_000
"""Largest size in bytes of a line or a text file; a line may contain images as data: URLs."""


_LONGEST_NAME = 200
"""Largest length of the path of an image in the list of skipped samples."""


@dataclass(frozen=True)
class Job:
    """Settings that all shards of a call share.

    Attributes:
        state: State of the output folder.
        sources: Input files, in their order.
        budget: Limit on the tokens of a sample.
        reading: How annotations are read.
        split: Largest number of tokens of a piece of a document; None: documents are not split.
        allow_outside_root: Whether paths of media may leave their root.
        tokenizer: Folder of the tokenizer.
        kinds: Names of the record kinds; None: the built-in ones.
        allowed_tokens: Special tokens that texts may contain as single tokens.
    """

    state: State
    sources: tuple[Source, ...]
    budget: Budget
    reading: Reading
    split: int | None
    allow_outside_root: bool
    tokenizer: str
    kinds: tuple[str, ...] | None = None
    allowed_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """A line, an element of a list, a row of a table, or a text file.

    Attributes:
        path: The file.
        number: Number of the line, element or row; 1 for a text file.
        place: Number of the sample within the source, from 1, which is its key.
        data: Its bytes, truncated if too many; a row of a table has none.
        row: The row of a table.
        size: Its share of the input in bytes, for the progress.
    """

    path: Path
    number: int
    place: int
    data: bytes = b""
    row: dict[str, Any] | None = None
    size: int = 0

    @property
    def key(self) -> str:
        """Key of its sample."""
        return f"{self.place:09d}"


@dataclass(frozen=True)
class _Ready:
    """A sample to write into the shard, with its counts."""

    key: str
    record: dict[str, Any]
    images: Sequence[MediaFile]
    videos: Sequence[MediaFile]
    members: Mapping[str, bytes]
    tokens: int
    tiles: int
    unknown: Sequence[str]
    spelled: Sequence[str]
    turned: bool


def convert_chunk(
    job: Job, chunk: Chunk, tokenizer: PreTrainedTokenizerBase, report: Callable[[int], None] = lambda _: None
) -> Note:
    """Writes one shard, its index, and its note.

    A chunk without usable samples has no shard, and its number is not used.

    Args:
        job: Settings of the conversion.
        chunk: The lines.
        tokenizer: The tokenizer of the job.
        report: Called with the bytes of input that are done.
    """
    converter = _Converter(job, chunk, tokenizer)
    source = job.sources[chunk.source]
    path = job.state.out / source.shard(chunk.number)
    with open_shard(path) as shard:
        done = 0
        for line in _lines(source, chunk):
            if source.has(line.key):
                converter.add(line, shard)
            done += line.size or len(line.data)
            report(done)
    if converter.totals.samples:
        converter.totals.bytes, converter.totals.shards = os.path.getsize(path), 1
        budget, has_images = job.budget, converter.totals.tiles or converter.totals.videos
        tile = budget.tile if has_images else None
        build_index(path, tokenizer, frame_template=budget.frame_template, kinds=converter.kinds, tile=tile)
    else:
        path.unlink()
    note = Note(chunk, converter.totals, converter.refused, converter.bad_box)
    note.unknown, note.spelled = dict(converter.unknown), dict(converter.spelled)
    job.state.write_note(source, note)
    return note


def _lines(source: Source, chunk: Chunk) -> Iterator[_Line]:
    if source.kind == "texts":
        for number, path in enumerate(source.files[chunk.begin : chunk.end], start=chunk.first):
            with open_regular(path) as file:
                yield _Line(path, 1, number, file.read(MAX_LINE + 1))
        return
    path = source.files[0]
    if source.kind == "table":
        size = sum(file.stat().st_size for file in source.files) // max(1, sum(source.rows))
        for number, row in enumerate(read_rows(source.files, source.rows, chunk.begin, chunk.end), start=chunk.first):
            yield _Line(path, number, number, row=row, size=max(1, size))
        return
    if source.kind == "list":
        begin = chunk.begin
        for number, (text, end) in enumerate(islice(read_elements(path, begin), chunk.count), start=chunk.first):
            yield _Line(path, number, number, text.encode("utf-8", "surrogatepass"), size=end - begin)
            begin = end
        return
    with open_regular(path) as file:
        file.seek(chunk.begin)
        for number in range(chunk.first, chunk.first + chunk.count):
            data = file.readline(MAX_LINE + 1)
            rest = data
            while len(data) > MAX_LINE and rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE)
            yield _Line(path, number, number, data)


class _Converter:
    """Writes the samples of one chunk and counts them."""

    def __init__(self, job: Job, chunk: Chunk, tokenizer: PreTrainedTokenizerBase) -> None:
        self.job, self.tokenizer = job, tokenizer
        self.source = job.sources[chunk.source]
        self.budget = job.budget.with_tiles(self.source.max_tiles)
        self.kinds = named_kinds(job.kinds)
        self.media = MediaRoot(self.source.root, job.allow_outside_root)
        self.totals = Totals()
        self.refused: list[dict[str, Any]] = []
        self.bad_box = ""
        self.unknown: Counter[str] = Counter()
        self.spelled: Counter[str] = Counter()
        self.special = [token for token in codec(tokenizer).ids if token not in CONTROL_TOKENS]

    def add(self, line: _Line, shard: Shard) -> None:
        """Writes the sample of a line, or skips all of it."""
        self.totals.lines += 1
        if line.row is None and not line.data.strip() and self.source.kind != "texts":
            self.totals.blank += 1
            return
        sample: object = None
        try:
            sample = self._parse(line)
            is_text = self.source.kind == "texts"
            draft = Draft(text=str(sample)) if is_text else read_draft(sample, self.job.reading, self.kinds)
            check_draft(draft)
            ready = self._prepare(line.key, draft)
            problem = box_problem(draft)
        except SampleError as error:
            self._skip(line, sample, error)
        except RecursionError:
            self._skip(line, sample, Refused("bad_json", TOO_DEEP))
        except (DataError, OSError, TemplateError):
            raise
        except MemoryError as error:  # not the sample's fault: with more memory or fewer processes it may be usable
            hint = "fewer --num_workers need less"
            raise DataError(f"{line.path}, line {line.number}: not enough memory; {hint}") from error
        except Exception as error:
            reason = " ".join(beginning(f"{type(error).__name__}: {error}", 300).split())
            self._skip(line, sample, Refused("unexpected", reason))
        else:
            if problem:
                self.totals.bad_boxes += 1
                self.bad_box = self.bad_box or f"{line.path}:{line.number}: {problem}"
            self._write(ready, shard)

    def _parse(self, line: _Line) -> object:
        """Returns the parsed JSON of a line, the text of a text file, or the row of a table."""
        if line.row is not None:
            return line.row
        if len(line.data) > MAX_LINE:
            raise Refused("bad_json", f"more than {MAX_LINE} bytes")
        data = line.data.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.data
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("bad_text", f"invalid UTF-8 at byte {error.start}") from error
        if self.source.kind == "texts":
            return text
        try:
            return parse_json(text)
        except JsonProblem as error:
            raise Refused("bad_json", f"invalid JSON: {error}") from error

    def _prepare(self, key: str, draft: Draft) -> list[_Ready]:
        """Returns the samples to write: the sample itself, or the pieces of a document."""
        pieces = self._pieces(draft)
        if pieces is None:
            return [self._prepare_one(key, draft)]
        return [
            self._prepare_one(f"{key}-{number:05d}", replace(draft, text=piece)) for number, piece in enumerate(pieces)
        ]

    def _pieces(self, draft: Draft) -> list[str] | None:
        """Splits a document that is too long; returns None for other samples."""
        if self.job.split is None or draft.text is None or draft.images or draft.videos:
            return None
        pieces = list(split_document(draft.text, self.tokenizer, self.job.split))
        return [piece for piece in pieces if piece.strip()] if len(pieces) > 1 else None

    def _prepare_one(self, key: str, draft: Draft) -> _Ready:
        images = [self.media.image(where) for where in draft.images]
        sizes = [image.size for image in images]
        turned = turn_boxes(draft, images, self.job.reading.turned_boxes)
        place_objects(draft, draft.objects, pixel_sizes(draft, images))
        record = draft.record(self.source.name)
        kind = self._kind(record, draft)
        if isinstance(kind, BoxedImage) and len(images) == 1:
            record, turned = upright_record(record, images[0], self.job.reading.turned_boxes)
        try:
            length = len(json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
        except ValueError as error:
            raise Refused("bad_json", "a number is too large") from error
        if length > MAX_JSON:
            raise Refused("over_budget", f"{length} bytes of text, more than {MAX_JSON}")
        spelled = [token for token in self.special if any(token in text for text in draft.texts())]
        members = {suffix: self.media.read(where) for suffix, where in draft.members.items()}
        sample = Sample(record, members=members, files=[image.data for image in images])
        tokens, tiles = self.budget.measure(sample, kind, sizes, len(draft.videos), self.tokenizer)
        videos = [self.media.video(where, clip) for where, clip in zip(draft.videos, draft.clips, strict=True)]
        return _Ready(key, record, images, videos, members, tokens, tiles, draft.unknown, spelled, turned)

    def _kind(self, record: Mapping[str, Any], draft: Draft) -> RecordKind:
        """Returns the kind of a record, whose members the annotation must name."""
        try:
            kind = self.kinds.of(record)
        except SampleError as error:
            raise Refused("unknown_form", str(error)) from error
        if sorted(draft.members) != sorted(kind.members):
            named, wanted = (", ".join(sorted(names)) or "nothing" for names in (draft.members, kind.members))
            raise Refused(
                "bad_field", f"'members' names {named[:80]}, samples of the kind {kind_name(kind)} have {wanted}"
            )
        return kind

    def _write(self, ready: Sequence[_Ready], shard: Shard) -> None:
        if len(ready) > 1:
            self.totals.documents_cut += 1
            self.totals.pieces += len(ready)
        self.unknown.update(list(dict.fromkeys(ready[0].unknown)))
        self.spelled.update(list(dict.fromkeys(token for one in ready for token in one.spelled)))
        self.totals.turned_boxes += ready[0].turned
        for one in ready:
            files = [(file.suffix, file.data) for file in (*one.images, *one.videos)]
            shard.write(one.key, one.record, files, one.members)
            self.totals.samples += 1
            self.totals.tokens += one.tokens
            self.totals.tiles += one.tiles
            self.totals.images += len(one.images)
            self.totals.videos += len(one.videos)

    def _skip(self, line: _Line, sample: object, error: SampleError) -> None:
        self.totals.refused += 1
        own, image = (sample.get(key) if isinstance(sample, dict) else None for key in ("id", "image"))
        if not isinstance(image, str) or len(image) > _LONGEST_NAME:  # no image, several, or its contents
            image = None
        self.refused.append(
            {
                "source": self.source.name,
                "file": str(line.path),
                "line": line.number,
                "id": own if isinstance(own, str | int) else None,
                **({} if image is None else {"image": image}),
                "code": error.code if isinstance(error, Refused) else "bad_text",
                "reason": str(error),
            }
        )
