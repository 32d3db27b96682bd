"""The indices of all shards of a run, so that packs can be planned before anything is read.

What is kept in memory for each shard is its number of samples; the columns of a shard are loaded when they are asked
for, and those that came first are dropped. So a billion samples take no more memory than a few million.

`text_tokens` counts a sample rendered by the chat template with every image expanded to nothing between `<img>` and
`</img>`, every video to one frame, and without the run's own system text. A pair of answers counts its prompt twice.
What a run's settings add to that, `mmcomponents.data.sizes` knows.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import getsize, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.index_file import Header, ShardIndex, index_path, load_index, read_header
from mmcomponents.data.records import parse_record
from mmcomponents.data.rows import Integers, Rows
from mmcomponents.data.shards import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Member,
    cache_folder,
    json_member,
    media_members,
    read_members,
)
from mmcomponents.data.storage import check_ranges, exists, fetch, is_remote, redact
from mmcomponents.data.tokenizer import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_SAMPLES = 4_000_000
"""Samples whose columns are kept in memory, about 100 bytes each."""


@dataclass(frozen=True)
class StoredSample:
    """A sample as it is stored.

    Attributes:
        record: See `mmcomponents.data.records`.
        images: Files of the images, in the order of their placeholders.
        videos: Files of the videos, in the order of their placeholders.
    """

    record: dict[str, Any]
    images: list[bytes]
    videos: list[bytes]


class Index:
    """The samples of some shards, numbered one after the other.

    Attributes:
        shards: Places of the shards.
        begins: `[shards+1]` number of the first sample of each shard.
        sources: Names of the sources.
        problems: Why samples cannot be used, by their numbers.
        lost_shards: Why whole shards cannot be used, by their numbers: their samples cannot either.
    """

    def __init__(self, shards: Sequence[str], paths: Sequence[Path], headers: Sequence[Header]) -> None:
        self.shards, self._paths = list(shards), list(paths)
        self.begins: Integers = np.concatenate([[0], np.cumsum([h.samples for h in headers])]).astype(np.int64)
        self._borders: list[int] = self.begins.tolist()
        numbers: dict[str, int] = {}
        self._source_of = [
            np.array([numbers.setdefault(name, len(numbers)) for name in header.sources] or [0], np.int64)
            for header in headers
        ]
        self.sources = list(numbers)
        self.problems: dict[int, str] = {}
        for first, header in zip(self.begins.tolist(), headers, strict=False):
            self.problems |= {first + number: reason for number, reason in header.problems.items()}
        self.lost_shards: dict[int, str] = {}
        for number, (shard, header) in enumerate(zip(shards, headers, strict=True)):
            if not is_remote(shard) and (reason := _lost(shard, header)):
                self.lost_shards[number] = reason
        self._headers = list(headers)
        self._kept: OrderedDict[int, ShardIndex] = OrderedDict()
        self._kept_samples = 0

    def __len__(self) -> int:
        return int(self.begins[-1])

    @classmethod
    def open(
        cls,
        shards: Sequence[str | Path],
        tokenizer: PreTrainedTokenizerBase | str,
        folder: str | Path | None = None,
        frame_template: str | None = None,
    ) -> Index:
        """Opens the indices of shards, in the order given.

        Args:
            shards: The tar files.
            tokenizer: The tokenizer of the run, or its fingerprint.
            folder: Where the indices lie; None: beside the shards.
            frame_template: Text of a frame of a video in this run; None: whatever the indices were made with.

        Raises:
            DataError: An index is missing, or made with another tokenizer or by another version; or a server of remote
                shards sends no parts of files.
        """
        if not shards:
            raise DataError("no shards to open")
        wanted = tokenizer if isinstance(tokenizer, str) else fingerprint(tokenizer)
        places = [str(shard) for shard in shards]
        try:
            check_ranges(places)
            paths = [_find(shard, folder) for shard in places]
        except SampleError as error:  # of the storage: here it is no single sample that is missing
            raise DataError(str(error)) from error
        headers = []
        for shard, path in zip(places, paths, strict=True):
            remedy = f"run `mmcomponents data index {redact(shard)} --tokenizer FOLDER` with the tokenizer of the run"
            try:
                header = read_header(path)
            except DataError as error:
                raise DataError(f"{error}: {remedy}") from error
            if header.fingerprint != wanted:
                raise DataError(
                    f"the index {path} was made with another tokenizer or chat template ({header.fingerprint}, the run"
                    f" has {wanted}): {remedy}"
                )
            if frame_template not in (None, header.frame_template):
                raise DataError(
                    f"the index {path} was made for frames {header.frame_template!r}, the run has {frame_template!r}:"
                    f" {remedy} and --frame_template"
                )
            headers.append(header)
        return cls(places, paths, headers)

    def shard_of(self, samples: Integers) -> Integers:
        """`[n]` number of the shard of each sample."""
        return np.searchsorted(self.begins, samples, side="right") - 1

    def problem(self, sample: int) -> str:
        """Why a sample cannot be used; "" where nothing is known against it."""
        if self.lost_shards and (reason := self.lost_shards.get(self._place(sample)[0])):
            return reason
        return self.problems.get(sample, "")

    def source(self, sample: int) -> int:
        """Number of the source of a sample."""
        shard, number = self._place(sample)
        return int(self._shard(shard).rows.source[number])

    def name(self, sample: int) -> str:
        """Shard and key of a sample, as "train-000000/00017"."""
        shard, number = self._place(sample)
        stem = self.shards[shard].rpartition("/")[2].rpartition(".")[0]
        return f"{stem}/{self._shard(shard).key(number)}"

    def members(self, sample: int) -> list[Member]:
        """The files of a sample."""
        shard, number = self._place(sample)
        return self._shard(shard).members(number)

    def read(self, sample: int) -> StoredSample:
        """Reads a sample.

        Raises:
            SampleError: The JSON is wrong or missing, the shard is gone or ends too early, or it has a known problem.
        """
        if problem := self.problem(sample):
            raise SampleError(problem)
        members = self.members(sample)
        images, videos = media_members(members, IMAGE_SUFFIXES), media_members(members, VIDEO_SUFFIXES)
        wanted = [json_member(members), *images, *videos]
        text, *data = read_members(self.shards[self._place(sample)[0]], wanted)
        return StoredSample(parse_record(text), data[: len(images)], data[len(images) :])

    def rows(self, shard: int) -> Rows:
        """The rows of a whole shard; sources are numbered as in `sources`."""
        return self._shard(shard).rows

    def digest(self, shard: int) -> str:
        """Short hash of the keys and places of a shard's samples: it stays when the shard is moved or indexed again."""
        found = self._shard(shard)
        keys, places = (found.key_text, found.key_begin), (found.member_begin, found.member_offset, found.member_size)
        text = b"".join(np.asarray(column, np.int64).tobytes() for column in (*keys, *places))
        return hashlib.blake2b(text, digest_size=4).hexdigest()

    def take(self, samples: Integers) -> Rows:
        """The rows of some samples, in the order given."""
        samples = np.asarray(samples, np.int64)
        shards = self.shard_of(samples)
        if len(different := np.unique(shards)) == 1:
            return self.rows(int(different[0])).select(samples - self.begins[different[0]])
        order = np.argsort(shards, kind="stable")
        borders = np.searchsorted(shards[order], [*different, len(self.shards)])
        parts = [
            self.rows(int(shard)).select(samples[order[begin:end]] - self.begins[shard])
            for shard, begin, end in zip(different, borders[:-1], borders[1:], strict=True)
        ]
        back = np.empty(len(samples), np.int64)
        back[order] = np.arange(len(samples))
        return Rows.join(parts).select(back)

    def _place(self, sample: int) -> tuple[int, int]:
        if not 0 <= sample < len(self):
            raise IndexError(f"there is no sample {sample} among {len(self)}")
        shard = bisect_right(self._borders, sample) - 1
        return shard, sample - self._borders[shard]

    def _shard(self, number: int) -> ShardIndex:
        # A thread may read ahead while another plans: each step here is whole by itself, and none waits for a lock.
        if (kept := self._kept.get(number)) is not None:
            return kept
        index = load_index(self._paths[number])
        if index.header != self._headers[number]:
            raise DataError(f"the index {self._paths[number]} was made anew since this run began: start it again")
        samples = index.header.samples
        index = replace(index, rows=replace(index.rows, source=self._source_of[number][index.rows.source]))
        self._kept[number] = index
        self._kept_samples += samples
        while self._kept_samples > KEPT_SAMPLES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_samples -= dropped.header.samples
        return index


def _find(shard: str, folder: str | Path | None) -> Path:
    remedy = f"run `mmcomponents data index {redact(shard)} --tokenizer FOLDER` with the tokenizer of the run"
    if folder is None and is_remote(shard):
        place = f"{shard.rpartition('/')[0]}/{index_path(shard, '.').name}"
        if not exists(place):
            raise DataError(
                f"{redact(shard)} has no index {redact(place)}: {remedy} and --out FOLDER, and set data.index_folder"
            )
        return fetch(place, cache_folder())
    path = index_path(shard, folder)
    if not path.is_file():
        missing = "" if is_remote(shard) or isfile(shard) else f"the shard {shard} is missing, and "
        raise DataError(f"{missing}{shard} has no index {path.name}: {remedy}")
    return path


def _lost(shard: str, header: Header) -> str:
    try:
        size = getsize(shard)
    except OSError:
        return f"the shard {shard} is missing"
    if size != header.shard_bytes:
        return (
            f"the index was made of a shard of {header.shard_bytes} bytes, {shard} has {size}: run `mmcomponents data"
            f" index {shard}` again"
        )
    return ""
