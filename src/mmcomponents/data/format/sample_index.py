"""Index over all shards of a run, from which packs are planned before any sample is read.

Only the number of samples of each shard is kept in memory. The columns of a shard are loaded on demand, and the oldest
ones are dropped, so a billion samples take no more memory than a few million.

`text_tokens` counts the tokens of a sample rendered by the chat template with no visual tokens between `<img>` and
`</img>`, with one frame per video, and without the run's system text. A pair of answers counts its prompt twice.
`mmcomponents.data.packing.sizes` adds what depends on a run's settings.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from os.path import getsize, isfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcomponents.data.chat.kinds import Kinds
from mmcomponents.data.chat.tokenizer import fingerprint
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.columns import Columns, Integers, boundaries
from mmcomponents.data.format.index_content import Header, ShardIndex
from mmcomponents.data.format.shard_index import index_path, load_index, read_header
from mmcomponents.data.format.shards import Member, cache_folder
from mmcomponents.data.format.stored_sample import StoredSample, read_sample
from mmcomponents.data.storage import check_ranges, exists, fetch, is_remote, redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_SAMPLES = 4_000_000
"""Number of samples whose columns are kept in memory, about 100 bytes each."""


class Index:
    """Samples of several shards, numbered consecutively.

    Attributes:
        shards: Paths or addresses of the shards.
        begins: `[shards+1]` number of the first sample of each shard.
        sources: Names of the sources.
        kinds: Record kinds of the run.
        problems: Reasons why samples cannot be used, by sample number.
        lost_shards: Reasons why complete shards, with all their samples, cannot be used, by shard number.
    """

    def __init__(
        self, shards: Sequence[str], paths: Sequence[Path], headers: Sequence[Header], kinds: Kinds | None = None
    ) -> None:
        self.shards, self._paths, self.kinds = list(shards), list(paths), kinds or Kinds()
        self.begins: Integers = boundaries([header.samples for header in headers])
        self._boundaries: list[int] = self.begins.tolist()
        numbers: dict[str, int] = {}
        self._source_of = [
            np.array([numbers.setdefault(name, len(numbers)) for name in header.sources] or [0], np.int64)
            for header in headers
        ]
        self.sources = list(numbers)
        self.problems: dict[int, str] = {}
        for shard, first, header in zip(shards, self.begins.tolist(), headers, strict=False):
            for number, reason in header.problems.items():
                made = self.kinds.indexed_without(reason)
                other = made and f"its index was made with the kinds {made}: {_remedy(shard, self.kinds)}"
                self.problems[first + number] = other or reason
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
        kinds: Kinds | None = None,
    ) -> Index:
        """Opens the indices of shards, in the given order.

        Args:
            shards: Tar files.
            tokenizer: Tokenizer of the run, or its fingerprint.
            folder: Folder of the indices; None: beside the shards.
            frame_template: Text of one video frame in this run; None: that of the indices.
            kinds: Record kinds of the run; None: the built-in ones.

        Raises:
            DataError: An index is missing, was built with another tokenizer or version, or has samples of a record kind
                that the run does not have; or a server of remote shards does not support range requests.
        """
        if not shards:
            raise DataError("no shards to open")
        wanted = tokenizer if isinstance(tokenizer, str) else fingerprint(tokenizer)
        names, known = [str(shard) for shard in shards], kinds or Kinds()
        try:
            check_ranges(names)
            paths = [_find(shard, folder, known) for shard in names]
        except SampleError as error:  # from the storage; not a matter of a single sample here
            raise DataError(str(error)) from error
        headers = []
        for shard, path in zip(names, paths, strict=True):
            remedy = _remedy(shard, known)
            try:
                header = read_header(path)
            except DataError as error:
                raise DataError(f"{error}: {remedy}") from error
            if header.fingerprint != wanted:
                raise DataError(
                    f"the index {path} was built with another tokenizer, chat template or allowed_tokens"
                    f" ({header.fingerprint}, the run has {wanted}): {remedy}"
                )
            if frame_template not in (None, header.frame_template):
                raise DataError(
                    f"the index {path} was built for frames {header.frame_template!r}, the run has {frame_template!r}:"
                    f" {remedy} and --frame_template"
                )
            own = {known.path(kind) for kind in known.kinds}
            if missing := [path for path in header.kinds if path not in own]:
                raise DataError(
                    f"the index {path} has samples of the record kind {missing[0]}, which the run does not have: add it"
                    " to data.kinds"
                )
            headers.append(header)
        return cls(names, paths, headers, kinds)

    @property
    def tiles(self) -> list[list[int] | None]:
        """`[tile_size, tokens_per_tile]` that each shard was converted for; None: any."""
        return [header.tile for header in self._headers]

    def shard_of(self, samples: Integers) -> Integers:
        """Returns the `[n]` shard numbers of samples."""
        return np.searchsorted(self.begins, samples, side="right") - 1

    def problem(self, sample: int) -> str:
        """Returns why a sample cannot be used, or "" if no problem is known."""
        if self.lost_shards and (reason := self.lost_shards.get(self._place(sample)[0])):
            return reason
        return self.problems.get(sample, "")

    def source(self, sample: int) -> int:
        """Returns the source number of a sample."""
        shard, number = self._place(sample)
        return int(self._shard(shard).columns.source[number])

    def name(self, sample: int) -> str:
        """Returns the shard and key of a sample, such as "train-000000/00017"."""
        shard, number = self._place(sample)
        stem = self.shards[shard].rpartition("/")[2].rpartition(".")[0]
        return f"{stem}/{self._shard(shard).key(number)}"

    def members(self, sample: int) -> list[Member]:
        """Returns the files of a sample."""
        shard, number = self._place(sample)
        return self._shard(shard).members(number)

    def read(self, sample: int) -> StoredSample:
        """Reads a sample.

        Raises:
            SampleError: The sample has a known problem, or cannot be read, see `read_sample`.
        """
        if problem := self.problem(sample):
            raise SampleError(problem)
        return read_sample(self.shards[self._place(sample)[0]], self.members(sample), self.kinds)

    def columns(self, shard: int) -> Columns:
        """Returns the columns of a complete shard; sources are numbered as in `sources`."""
        return self._shard(shard).columns

    def digest(self, shard: int) -> str:
        """Returns a short hash of the keys and offsets of a shard, unchanged when it is moved or indexed again."""
        found = self._shard(shard)
        columns = (found.key_text, found.key_begin, found.member_begin, found.member_offset, found.member_size)
        text = b"".join(np.asarray(column, np.int64).tobytes() for column in columns)
        return hashlib.blake2b(text, digest_size=4).hexdigest()

    def take(self, samples: Integers) -> Columns:
        """Returns the columns of the given samples, in the given order."""
        samples = np.asarray(samples, np.int64)
        shards = self.shard_of(samples)
        if len(different := np.unique(shards)) == 1:
            return self.columns(int(different[0])).select(samples - self.begins[different[0]])
        order = np.argsort(shards, kind="stable")
        bounds = np.searchsorted(shards[order], [*different, len(self.shards)])
        parts = [
            self.columns(int(shard)).select(samples[order[begin:end]] - self.begins[shard])
            for shard, begin, end in zip(different, bounds[:-1], bounds[1:], strict=True)
        ]
        back = np.empty(len(samples), np.int64)
        back[order] = np.arange(len(samples))
        return Columns.join(parts).select(back)

    def _place(self, sample: int) -> tuple[int, int]:
        if not 0 <= sample < len(self):
            raise IndexError(f"there is no sample {sample} among {len(self)}")
        shard = bisect_right(self._boundaries, sample) - 1
        return shard, sample - self._boundaries[shard]

    def _shard(self, number: int) -> ShardIndex:
        # One thread may prefetch while another plans. Each step is atomic, so no lock is needed.
        if (kept := self._kept.get(number)) is not None:
            return kept
        index = load_index(self._paths[number])
        if index.header != self._headers[number]:
            raise DataError(f"the index {self._paths[number]} was rebuilt after the run started: restart the run")
        samples = index.header.samples
        index = replace(index, columns=replace(index.columns, source=self._source_of[number][index.columns.source]))
        self._kept[number] = index
        self._kept_samples += samples
        while self._kept_samples > KEPT_SAMPLES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_samples -= dropped.header.samples
        return index


def _remedy(shard: str, kinds: Kinds) -> str:
    command = f"mmcomponents data index {redact(shard)} --tokenizer FOLDER{kinds.flag}"
    return f"run `{command}` with the tokenizer and the allowed tokens of the run"


def _find(shard: str, folder: str | Path | None, kinds: Kinds) -> Path:
    remedy = _remedy(shard, kinds)
    if folder is None and is_remote(shard):
        url = f"{shard.rpartition('/')[0]}/{index_path(shard, '.').name}"
        if not exists(url):
            raise DataError(
                f"{redact(shard)} has no index {redact(url)}: {remedy} and --out FOLDER, and set"
                " data.loading.index_folder"
            )
        return fetch(url, cache_folder())
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
            f"the index was built for a shard of {header.shard_bytes} bytes, {shard} has {size}: run `mmcomponents data"
            f" index {shard}` again"
        )
    return ""
