"""Content of the index of one shard, see `mmcomponents.data.format.shard_index`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from mmcomponents.data.format.columns import Column, Columns
from mmcomponents.data.format.shards import Member


@dataclass(frozen=True)
class Header:
    """Metadata of an index.

    Attributes:
        version: Version of the format.
        fingerprint: Fingerprint of the tokenizer.
        frame_template: Text of one video frame.
        shard_bytes: Size of the shard in bytes.
        samples: Number of samples of the shard.
        sources: Names of the sources.
        suffixes: Distinct member names without the key.
        problems: Reasons why samples cannot be used, by sample number.
        kinds: Dotted paths of the record kinds of other packages, see `Columns.kind`.
        tile: `[tile_size, tokens_per_tile]` that the shard's images were converted for; None: any.
    """

    version: int
    fingerprint: str
    frame_template: str
    shard_bytes: int
    samples: int
    sources: list[str]
    suffixes: list[str]
    problems: dict[int, str]
    kinds: list[str] = field(default_factory=list)
    tile: list[int] | None = None

    @property
    def usable(self) -> int:
        """Number of samples without a problem."""
        return self.samples - len(self.problems)


@dataclass(frozen=True)
class ShardIndex:
    """Index of one shard with n samples and m members.

    Attributes:
        header: Metadata.
        columns: Columns that packs are planned from.
        key_text: Concatenated keys in UTF-8.
        key_begin: `[n+1]` boundaries of the keys.
        member_begin: `[n+1]` boundaries of each sample's members.
        member_suffix: `[m]` numbers of the suffixes in the header.
        member_offset: `[m]` offsets in the shard in bytes.
        member_size: `[m]` sizes in bytes.
    """

    header: Header
    columns: Columns
    key_text: Column
    key_begin: Column
    member_begin: Column
    member_suffix: Column
    member_offset: Column
    member_size: Column

    @cached_property
    def _keys(self) -> bytes:
        return self.key_text.tobytes()

    def key(self, sample: int) -> str:
        """Returns the key of a sample."""
        return self._keys[int(self.key_begin[sample]) : int(self.key_begin[sample + 1])].decode("utf-8", "replace")

    def members(self, sample: int) -> list[Member]:
        """Returns the files of a sample."""
        span = slice(int(self.member_begin[sample]), int(self.member_begin[sample + 1]))
        columns = (self.member_suffix[span], self.member_offset[span], self.member_size[span])
        return [
            Member(self.header.suffixes[suffix], offset, size)
            for suffix, offset, size in zip(*(column.tolist() for column in columns), strict=True)
        ]
