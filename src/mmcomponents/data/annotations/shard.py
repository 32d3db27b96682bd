"""From some lines of annotations to one shard with its index, and what could not be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.data.annotations.budget import Budget
from mmcomponents.data.annotations.checks import TOO_DEEP, check_draft
from mmcomponents.data.annotations.chunks import Chunk
from mmcomponents.data.annotations.draft import Draft
from mmcomponents.data.annotations.forms import Form, read_draft
from mmcomponents.data.annotations.media import MediaRoot
from mmcomponents.data.annotations.refused import Refused
from mmcomponents.data.annotations.sources import Source
from mmcomponents.data.annotations.split import split_document
from mmcomponents.data.annotations.state import Note, State, Totals
from mmcomponents.data.control_text import TemplateError
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.indexing import build_index
from mmcomponents.data.shards import MAX_JSON, Shard, open_shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LINE = 256_000_000
"""Bytes of a line, or of a text file; images may be inside, as data: addresses."""


@dataclass(frozen=True)
class Job:
    """All that is the same for every shard of a call.

    Attributes:
        state: The folder that is packed into.
        sources: What is packed.
        budget: How long a sample may be.
        form: Of the annotations; `auto`: each line tells.
        split: Tokens of the pieces of long documents; None: they are not cut.
        allow_outside_root: Whether paths of media may leave their root.
        tokenizer: Folder of the tokenizer.
    """

    state: State
    sources: tuple[Source, ...]
    budget: Budget
    form: Form
    split: int | None
    allow_outside_root: bool
    tokenizer: str


@dataclass(frozen=True)
class _Line:
    """A line, or a text file.

    Attributes:
        path: Where it is.
        number: Of the line; 1 for a text file.
        place: Of the sample within the source, from 1 on: its key.
        data: Its bytes, not all of them where there are too many.
    """

    path: Path
    number: int
    place: int
    data: bytes


def pack_chunk(
    job: Job, chunk: Chunk, tokenizer: PreTrainedTokenizerBase, tell: Callable[[int], None] = lambda _: None
) -> Note:
    """Writes one shard, its index, and the note that it is whole.

    A chunk without any sample that can be used has no shard, and the number of it is left out.

    Args:
        job: What is packed, and how.
        chunk: The lines.
        tokenizer: The tokenizer of the job.
        tell: Is called with the bytes of input that are done.
    """
    packer = _Packer(job, chunk, tokenizer)
    source = job.sources[chunk.source]
    path = job.state.out / source.shard(chunk.number)
    with open_shard(path) as shard:
        done = 0
        for line in _lines(source, chunk):
            packer.add(line, shard)
            done += len(line.data)
            tell(done)
    if packer.totals.samples:
        packer.totals.bytes, packer.totals.shards = os.path.getsize(path), 1
        build_index(path, tokenizer, frame_template=job.budget.frame_template)
    else:
        path.unlink()
    note = Note(chunk, packer.totals, packer.refused)
    job.state.write_note(source, note)
    return note


def _lines(source: Source, chunk: Chunk) -> Iterator[_Line]:
    if source.documents:
        for number, path in enumerate(source.files[chunk.begin : chunk.end], start=chunk.first):
            with path.open("rb") as file:
                yield _Line(path, 1, number, file.read(MAX_LINE + 1))
        return
    path = source.files[0]
    with path.open("rb") as file:
        file.seek(chunk.begin)
        for number in range(chunk.first, chunk.first + chunk.count):
            data = file.readline(MAX_LINE + 1)
            rest = data
            while len(data) > MAX_LINE and rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE)
            yield _Line(path, number, number, data)


class _Packer:
    """Writes the samples of one chunk and keeps account of them."""

    def __init__(self, job: Job, chunk: Chunk, tokenizer: PreTrainedTokenizerBase) -> None:
        self.job, self.tokenizer = job, tokenizer
        self.source = job.sources[chunk.source]
        self.budget = job.budget.with_tiles(self.source.max_tiles)
        self.media = MediaRoot(self.source.root, job.allow_outside_root)
        self.totals = Totals()
        self.refused: list[dict[str, Any]] = []

    def add(self, line: _Line, shard: Shard) -> None:
        self.totals.lines += 1
        if not line.data.strip() and not self.source.documents:
            self.totals.blank += 1
            return
        sample: object = None
        try:
            sample = self._parse(line)
            draft = Draft(text=sample) if isinstance(sample, str) else read_draft(sample, self.job.form)
            check_draft(draft)
            self._write(f"{line.place:09d}", draft, shard)
        except SampleError as error:
            self._refuse(line, sample, error)
        except RecursionError:
            self._refuse(line, sample, Refused("bad_json", TOO_DEEP))
        except (DataError, OSError, TemplateError):
            raise
        except Exception as error:
            raise RuntimeError(f"{line.path}, line {line.number}: {type(error).__name__}: {error}") from error

    def _parse(self, line: _Line) -> object:
        """The JSON of a line, or the text of a text file."""
        if len(line.data) > MAX_LINE:
            raise Refused("bad_json", f"more than {MAX_LINE} bytes")
        data = line.data.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.data
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("bad_text", f"bytes that are no UTF-8 at byte {error.start}") from error
        if self.source.documents:
            return text
        try:
            return json.loads(text, parse_constant=_no_number)
        except ValueError as error:
            raise Refused("bad_json", f"wrong JSON: {error}") from error

    def _write(self, key: str, draft: Draft, shard: Shard) -> None:
        pieces = self._pieces(draft)
        if pieces is None:
            self._write_one(key, draft, shard)
            return
        self.totals.documents_cut += 1
        self.totals.pieces += len(pieces)
        for number, piece in enumerate(pieces):
            self._write_one(f"{key}-{number:05d}", Draft(text=piece, kept=draft.kept), shard)

    def _pieces(self, draft: Draft) -> list[str] | None:
        """The pieces of a document that is too long; None: it is not cut."""
        if self.job.split is None or draft.text is None or draft.images or draft.videos:
            return None
        pieces = list(split_document(draft.text, self.tokenizer, self.job.split))
        return [piece for piece in pieces if piece.strip()] if len(pieces) > 1 else None

    def _write_one(self, key: str, draft: Draft, shard: Shard) -> None:
        images = [self.media.image(where) for where in draft.images]
        record = draft.record(self.source.name)
        try:
            length = len(json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
        except ValueError as error:
            raise Refused("bad_json", "a number is too large") from error
        if length > MAX_JSON:
            raise Refused("over_budget", f"{length} bytes of text, more than {MAX_JSON}")
        sizes = [image.size for image in images]
        tokens, tiles = self.budget.measure(record, sizes, len(draft.videos), self.tokenizer)
        videos = [self.media.video(where, clip) for where, clip in zip(draft.videos, draft.clips, strict=True)]
        shard.write(key, record, [(file.suffix, file.data) for file in (*images, *videos)])
        self.totals.samples += 1
        self.totals.tokens += tokens
        self.totals.tiles += tiles
        self.totals.images += len(images)
        self.totals.videos += len(videos)

    def _refuse(self, line: _Line, sample: object, error: SampleError) -> None:
        self.totals.refused += 1
        own = sample.get("id") if isinstance(sample, dict) else None
        self.refused.append(
            {
                "source": self.source.name,
                "file": str(line.path),
                "line": line.number,
                "id": own if isinstance(own, str | int) else None,
                "code": error.code if isinstance(error, Refused) else "bad_text",
                "reason": str(error),
            }
        )


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
