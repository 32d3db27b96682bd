"""Columns of the index: the arrays that packs are planned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """Columns of n samples with i images and v videos in total.

    Attributes:
        source: `[n]` source numbers.
        text_tokens: `[n]` numbers of tokens without visual tokens, see `mmcomponents.data.format.sample_index`; 1 for
            an unusable sample.
        turns: `[n]` numbers of assistant turns.
        segments: `[n]` numbers of segments in a pack: two for a pair of answers.
        own_system: `[n]` whether the run's system text is not prepended.
        uses: `[n]` numbers of times that the visual tokens of all images occur; mostly the number of segments.
        own_tiles: `[n]` numbers of tiles of images that a record kind makes itself; 0 for the built-in kinds.
        kind: `[n]` 0 for a built-in record kind, else the number of the kind in the header, from 1.
        image_begin: `[n+1]` boundaries of each sample's images.
        image_width: `[i]` widths in pixels, upright.
        image_height: `[i]` heights in pixels, upright.
        video_begin: `[n+1]` boundaries of each sample's videos.
        video_frames: `[v]` numbers of frames of the clips.
        video_fps: `[v]` frames per second.
    """

    source: Column
    text_tokens: Column
    turns: Column
    segments: Column
    own_system: Column
    uses: Column
    own_tiles: Column
    kind: Column
    image_begin: Column
    image_width: Column
    image_height: Column
    video_begin: Column
    video_frames: Column
    video_fps: Column

    def __len__(self) -> int:
        return len(self.source)

    @property
    def images(self) -> Integers:
        """`[n]` numbers of images of each sample."""
        return np.diff(self.image_begin)

    @property
    def videos(self) -> Integers:
        """`[n]` numbers of videos of each sample."""
        return np.diff(self.video_begin)

    def select(self, samples: Integers) -> Columns:
        """Returns the columns of the given samples, in the given order."""
        columns: dict[str, Column] = {name: getattr(self, name)[samples] for name in PER_SAMPLE}
        for begin, names in RAGGED.items():
            columns[begin], positions = ragged(getattr(self, begin), samples)
            columns |= {name: getattr(self, name)[positions] for name in names}
        return Columns(**columns)

    @staticmethod
    def join(parts: Sequence[Columns]) -> Columns:
        """Concatenates columns."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return NO_COLUMNS
        columns: dict[str, Column] = {}
        for field in fields(Columns):
            values = [getattr(part, field.name) for part in parts]
            if field.name in RAGGED:
                columns[field.name] = boundaries(np.concatenate([np.diff(value) for value in values]))
            else:
                columns[field.name] = np.concatenate(values)
        return Columns(**columns)


PER_SAMPLE = ("source", "text_tokens", "turns", "segments", "own_system", "uses", "own_tiles", "kind")
OPTIONAL = ("uses", "own_tiles", "kind")
"""Columns that the index of a shard without samples of other packages' kinds does not store."""
RAGGED = {"image_begin": ("image_width", "image_height"), "video_begin": ("video_frames", "video_fps")}


NO_COLUMNS = Columns(
    **{field.name: np.zeros(1 if field.name in RAGGED else 0, np.int64) for field in fields(Columns)},
)


def boundaries(counts: npt.ArrayLike) -> Integers:
    """Returns the `[n+1]` boundaries of n consecutive parts of the given lengths, starting with 0."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def ragged(begin: Column, samples: Integers) -> tuple[Integers, Integers]:
    """Selects the parts of a ragged column that belong to the given samples.

    Args:
        begin: `[n+1]` boundaries of each sample's part.
        samples: `[m]` sample numbers.

    Returns:
        `[m+1]` boundaries of the new column, and the positions of its elements in the old one.
    """
    first, counts = begin[samples], begin[samples + 1] - begin[samples]
    bounds = boundaries(counts)
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - first, counts)
    return bounds, positions.astype(np.int64)
