"""Columns over samples, with several images and videos each: what packs are planned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """n samples with i images and v videos in all.

    Attributes:
        source: `[n]` number of the source.
        text_tokens: `[n]` tokens without the rows of images, see `mmcomponents.data.index`; 1 where there is a problem.
        turns: `[n]` answers of the assistant.
        segments: `[n]` segments of a pack that the sample becomes: two for a pair of answers.
        own_system: `[n]` whether the run's system text is not put in front of it.
        image_begin: `[n+1]` where each sample's images begin.
        image_width: `[i]` in pixels, upright.
        image_height: `[i]` in pixels, upright.
        video_begin: `[n+1]` where each sample's videos begin.
        video_frames: `[v]` frames of the clip.
        video_fps: `[v]` frames a second.
    """

    source: Column
    text_tokens: Column
    turns: Column
    segments: Column
    own_system: Column
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
        """`[n]` images of each sample."""
        return np.diff(self.image_begin)

    @property
    def videos(self) -> Integers:
        """`[n]` videos of each sample."""
        return np.diff(self.video_begin)

    def select(self, samples: Integers) -> Rows:
        """The rows of some samples, in the order given."""
        columns: dict[str, Column] = {name: getattr(self, name)[samples] for name in PER_SAMPLE}
        for begin, names in RAGGED.items():
            borders, places = ragged(getattr(self, begin), samples)
            columns[begin] = borders
            columns |= {name: getattr(self, name)[places] for name in names}
        return Rows(**columns)

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return NO_ROWS
        columns: dict[str, Column] = {}
        for field in fields(Rows):
            values = [getattr(part, field.name) for part in parts]
            if field.name in RAGGED:
                columns[field.name] = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(v) for v in values]))])
            else:
                columns[field.name] = np.concatenate(values)
        return Rows(**columns)


PER_SAMPLE = ("source", "text_tokens", "turns", "segments", "own_system")
RAGGED = {"image_begin": ("image_width", "image_height"), "video_begin": ("video_frames", "video_fps")}


NO_ROWS = Rows(
    **{field.name: np.zeros(1 if field.name in RAGGED else 0, np.int64) for field in fields(Rows)},
)


def ragged(begin: Column, samples: Integers) -> tuple[Integers, Integers]:
    """Borders and places of what some samples own in a column that is as long as all that is owned.

    Args:
        begin: `[n+1]` where what each sample owns begins.
        samples: `[m]` the samples that are wanted.

    Returns:
        `[m+1]` borders of the new column, and the places in the old one.
    """
    first, counts = begin[samples], begin[samples + 1] - begin[samples]
    borders = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.arange(borders[-1]) - np.repeat(borders[:-1] - first, counts)
    return borders, places.astype(np.int64)
