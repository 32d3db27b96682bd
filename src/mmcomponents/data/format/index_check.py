"""Checks of an index that was read: its digests detect damage, not a file that was written with other contents.

Packs are planned from the columns: a width of 0, a source that does not exist or 10^18 tokens would end a run with an
error that names none of them, exhaust the memory, or train on other samples.
"""

from __future__ import annotations

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.columns import PER_SAMPLE, RAGGED, Column
from mmcomponents.data.format.index_content import Header, ShardIndex
from mmcomponents.data.media.images import MAX_PIXELS
from mmcomponents.data.media.video import MAX_FPS

MAX_COUNT = 2**31 - 1
"""Largest number of tokens, turns or frames of a sample; sums over a shard then fit into 64 bits."""


def check_header(header: Header) -> None:
    """Checks the types of the metadata.

    Raises:
        DataError: A value is of another type or out of range.
    """
    texts = [
        header.fingerprint,
        header.frame_template,
        *header.sources,
        *header.suffixes,
        *header.problems.values(),
        *header.kinds,
    ]
    counts = [header.shard_bytes, header.samples, *(header.tile or ())]
    if not all(isinstance(text, str) for text in texts) or not all(type(count) is int for count in counts):
        raise DataError("a value of its header has a wrong type")
    if header.tile is not None and len(header.tile) != 2:
        raise DataError(f"its header has the tile {header.tile}, not [tile_size, tokens_per_tile]")
    if min(counts) < 0:
        raise DataError(f"its header has {header.samples} samples of {header.shard_bytes} bytes")
    if any(not 0 <= sample < header.samples for sample in header.problems):
        raise DataError(f"its header has a problem of a sample that is not among its {header.samples}")


def check_columns(index: ShardIndex) -> None:
    """Checks that the columns belong together, and that each value is possible.

    Raises:
        DataError: A column has another type or length than it must have, or a value out of range.
    """
    header, columns = index.header, index.columns
    lengths = {"key_begin": len(index.key_text), "member_begin": len(index.member_suffix)}
    lengths |= {begin: len(getattr(columns, names[0])) for begin, names in RAGGED.items()}
    for name, end in lengths.items():
        begin = getattr(index if hasattr(index, name) else columns, name)
        _check(name, begin, header.samples + 1, 0, end)
        if begin[0] != 0 or begin[-1] != end or (np.diff(begin) < 0).any():
            raise DataError(f"its column {name} does not rise from 0 to {end}")
    ranges = {
        "source": (0, max(len(header.sources), 1) - 1),
        "text_tokens": (0, MAX_COUNT),
        "turns": (0, MAX_COUNT),
        "segments": (1, MAX_COUNT if header.kinds else 2),
        "own_system": (0, 1),
        "uses": (0, MAX_COUNT),
        "own_tiles": (0, MAX_COUNT),
        "kind": (0, len(header.kinds)),
        "image_width": (1, MAX_PIXELS),
        "image_height": (1, MAX_PIXELS),
        "video_frames": (0, MAX_COUNT),
        "video_fps": (0, MAX_FPS),
    }
    size = dict.fromkeys(PER_SAMPLE, header.samples)
    size |= {name: lengths[begin] for begin, names in RAGGED.items() for name in names}
    for name, (least, most) in ranges.items():
        _check(name, getattr(columns, name), size[name], least, most)
    members = lengths["member_begin"]
    _check("key_text", index.key_text, lengths["key_begin"], 0, 255)
    _check("member_suffix", index.member_suffix, members, 0, max(len(header.suffixes), 1) - 1)
    _check("member_size", index.member_size, members, 0, header.shard_bytes)
    _check("member_offset", index.member_offset, members, 0, header.shard_bytes)
    if (index.member_offset + index.member_size > header.shard_bytes).any():
        raise DataError(f"its column member_size reaches beyond the {header.shard_bytes} bytes of the shard")


def _check(name: str, column: Column, count: int, least: float, most: float) -> None:
    kinds = "f" if name == "video_fps" else "biu"
    if column.shape != (count,) or column.dtype.kind not in kinds:
        raise DataError(f"its column {name} is {column.dtype} {list(column.shape)}, not {count} numbers")
    inside = (column >= least) & (column <= most)  # false for NaN
    if not inside.all():
        place = int(np.argmin(inside))
        raise DataError(f"its column {name} has {column[place]} at {place}, not {least} to {most:g}")
