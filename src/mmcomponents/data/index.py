"""The index of shards: sizes and places of all samples, so that packs can be planned before anything is read.

Beside `train-000000.tar` lies `train-000000.index.npz`. It holds what does not depend on the settings of a run: the
members' offsets, the images' widths and heights, and the number of text tokens. Tiles and total lengths follow from
those when the index is opened, so the tiling may change without a new index. The tokenizer may not: the index knows its
fingerprint.

`text_tokens` counts the conversation rendered by the chat template with every image expanded to nothing between `<img>`
and `</img>`, and without the run's own system text. A sample's length is then exactly
`text_tokens + sum over images of tiles * tokens_per_tile` (+ the tokens of the system block, where it has none itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.shards import Member, image_members, parse_record, read_bytes
from mmcomponents.data.tiling import Tiling
from mmcomponents.data.tokenizer import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
Column = npt.NDArray[Any]


def index_path(shard: str | Path) -> Path:
    """Where the index of a shard lies."""
    return Path(shard).with_suffix(".index.npz")


@dataclass
class Index:
    """Columns over the n samples of some shards, over their m members and their i images.

    Attributes:
        shards: Paths of the shards.
        sources: Names of the sources.
        shard: `[n]` number of the shard.
        key: `[n]` key within the shard.
        source: `[n]` number of the source.
        problems: Why samples could not be indexed, by their numbers.
        text_tokens: `[n]` tokens without the rows of images, see the top of this file; 1 where there is a problem.
        turns: `[n]` answers of the assistant.
        own_system: `[n]` whether the conversation has a system message of its own.
        member_begin: `[n+1]` where each sample's members begin.
        member_suffix: `[m]` names of the members, after the key.
        member_offset: `[m]` where the bytes begin in the shard.
        member_size: `[m]` number of bytes.
        image_begin: `[n+1]` where each sample's images begin.
        image_width: `[i]` in pixels, upright.
        image_height: `[i]` in pixels, upright.
    """

    shards: list[Path]
    sources: list[str]
    problems: dict[int, str]
    shard: Column
    key: Column
    source: Column
    text_tokens: Column
    turns: Column
    own_system: Column
    member_begin: Column
    member_suffix: Column
    member_offset: Column
    member_size: Column
    image_begin: Column
    image_width: Column
    image_height: Column

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def open(cls, shards: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase | str) -> Index:
        """Opens the indices of shards and joins them, in the order given.

        Args:
            shards: The tar files.
            tokenizer: The tokenizer of the run, or its fingerprint.

        Raises:
            DataError: An index is missing, or made of another shard, with another tokenizer or by another version.
        """
        if not shards:
            raise DataError("no shards to open")
        wanted = tokenizer if isinstance(tokenizer, str) else fingerprint(tokenizer)
        return _join([_load(Path(shard), wanted) for shard in shards])

    def name(self, sample: int) -> str:
        """Shard and key of a sample, as "train-000000/00017"."""
        return f"{self.shards[int(self.shard[sample])].stem}/{self.key[sample]}"

    def members(self, sample: int) -> list[Member]:
        """The files of a sample."""
        span = slice(int(self.member_begin[sample]), int(self.member_begin[sample + 1]))
        columns = (self.member_suffix[span], self.member_offset[span], self.member_size[span])
        return [Member(str(suffix), int(offset), int(size)) for suffix, offset, size in zip(*columns, strict=True)]

    def read(self, sample: int) -> tuple[dict[str, Any], list[bytes]]:
        """Reads the record and the image files of a sample.

        Raises:
            SampleError: The JSON is wrong or missing, or the shard ends too early.
        """
        members = self.members(sample)
        texts = [m for m in members if m.suffix == "json"]
        if not texts:
            raise SampleError("the sample has no .json member")
        images = image_members(members)
        text, *data = read_bytes(self.shards[int(self.shard[sample])], [texts[0], *images])
        return parse_record(text), data

    def tiles(self, tiling: Tiling) -> npt.NDArray[np.int64]:
        """Returns the tiles of each sample, `[n]`, thumbnails included."""
        per_sample = np.diff(self.image_begin)
        sample = np.repeat(np.arange(len(self)), per_sample)
        # Few shapes are different, so the rule itself runs once for each of them.
        shapes = np.stack([self.image_width, self.image_height, per_sample[sample]], 1).astype(np.int64)
        different, which = np.unique(shapes, axis=0, return_inverse=True)
        counts = [tiling.for_images(images).count(width, height) for width, height, images in different.tolist()]
        tiles = np.array(counts, np.int64)[which.reshape(-1)]
        return np.bincount(sample, weights=tiles, minlength=len(self)).astype(np.int64)

    def tokens(self, tiling: Tiling, tokens_per_tile: int, system_tokens: int = 0) -> npt.NDArray[np.int64]:
        """Returns the length of each sample, `[n]`.

        Args:
            tiling: The settings of the run.
            tokens_per_tile: Rows that a tile becomes.
            system_tokens: Length of the run's system block, added where a conversation has none.
        """
        system = np.where(self.own_system, 0, system_tokens)
        total: npt.NDArray[np.int64] = self.text_tokens + self.tiles(tiling) * tokens_per_tile + system
        return total


PER_SAMPLE = ("shard", "key", "source", "text_tokens", "turns", "own_system")
PER_MEMBER = ("member_suffix", "member_offset", "member_size")
PER_IMAGE = ("image_width", "image_height")


def _load(shard: Path, wanted: str) -> tuple[Path, dict[str, Column]]:
    path = index_path(shard)
    remedy = f"run `mmcomponents data index {shard} --tokenizer FOLDER` with the tokenizer of the run"
    if not shard.is_file():
        raise DataError(f"the shard {shard} is missing")
    if not path.is_file():
        raise DataError(f"{shard} has no index {path.name}: {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = dict(file)
        version, made_with, size = int(columns["version"]), str(columns["fingerprint"]), int(columns["shard_bytes"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the index {path} cannot be read ({error}): {remedy}") from error
    if version != VERSION:
        raise DataError(f"the index {path} is of version {version}, this is {VERSION}: {remedy}")
    if made_with != wanted:
        raise DataError(
            f"the index {path} was made with another tokenizer or chat template ({made_with}, the run has {wanted}):"
            f" {remedy}"
        )
    if size != shard.stat().st_size:
        raise DataError(
            f"the index {path} was made of a shard of {size} bytes, {shard} has {shard.stat().st_size}: {remedy}"
        )
    return shard, columns


def _join(parts: Sequence[tuple[Path, dict[str, Column]]]) -> Index:
    sources: dict[str, int] = {}
    problems: dict[int, str] = {}
    samples = 0
    for number, (_, columns) in enumerate(parts):
        for place, reason in zip(columns["problem_sample"].tolist(), columns["problem_reason"].tolist(), strict=True):
            problems[samples + place] = reason
        samples += len(columns["key"])
        numbers = np.array([sources.setdefault(str(s), len(sources)) for s in columns["sources"]], np.int64)
        columns["source"] = numbers[columns["source"]] if len(columns["source"]) else columns["source"]
        columns["shard"] = np.full_like(columns["source"], number)
        columns["own_system"] = columns["own_system"].astype(bool)
    joined: dict[str, Column] = {
        name: np.concatenate([columns[name] for _, columns in parts]) for name in (*PER_SAMPLE, *PER_MEMBER, *PER_IMAGE)
    }
    for name in ("member_begin", "image_begin"):
        sizes = np.concatenate([np.diff(columns[name]) for _, columns in parts])
        joined[name] = np.concatenate([[0], np.cumsum(sizes)])
    if set(joined) != {field.name for field in fields(Index)} - {"shards", "sources", "problems"}:
        raise DataError(f"an index with the columns {sorted(joined)} is not of version {VERSION}")
    return Index(shards=[shard for shard, _ in parts], sources=list(sources), problems=problems, **joined)
