"""Which frames of a video are looked at: a choice of indices from the number of frames and the frame rate.

The choices are those of InternVL's released training code (arXiv 2504.10479 names no others); figures of it are in the
tests. Each class is one way to choose, and `indices` is a pure function: a random choice depends on its seed alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

_MOST_CHOSEN = 1_000_000
_MOST_FRAMES = 100_000
"""What is asked for beyond is a mistake, and would fill the memory."""


class FrameSampling(Protocol):
    """A way to choose frames."""

    def indices(self, total: int, fps: float) -> list[int]:
        """Returns the indices of frames, ascending, each from 0 to `total - 1`; one may come up several times.

        Args:
            total: Number of frames there are.
            fps: Frames a second of the video.

        Raises:
            ValueError: There is no frame, or the rate is not positive.
        """
        ...


def _check(total: int, fps: float) -> None:
    if total < 1 or not fps > 0:
        raise ValueError(f"no frames can be chosen of {total} frames at {fps} a second")


def _check_count(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be positive, not {num_frames}")
    if num_frames > _MOST_FRAMES:
        raise ValueError(f"num_frames must be at most {_MOST_FRAMES}, not {num_frames}")


def _intervals(total: int, count: int) -> list[tuple[int, int]]:
    """First and last frame of each of `count` intervals of nearly equal length."""
    borders = np.linspace(0, total, count + 1).astype(int).tolist()
    return [(a, b - 1) for a, b in pairwise(borders)]


def _filled(indices: list[int], count: int) -> list[int]:
    """Repeats the last frame of a video that is too short."""
    return indices + indices[-1:] * (count - len(indices))


@dataclass(frozen=True)
class MiddleFrames:
    """The middle frame of each of `num_frames` equal intervals. A shorter video has its last frame repeated.

    Attributes:
        num_frames: Frames that come out.
    """

    num_frames: int = 16

    def __post_init__(self) -> None:
        _check_count(self.num_frames)

    def indices(self, total: int, fps: float) -> list[int]:
        """See `FrameSampling`; the rate plays no part."""
        _check(total, fps)
        spans = _intervals(total, min(self.num_frames, total))
        return _filled([(first + last) // 2 for first, last in spans], self.num_frames)


@dataclass(frozen=True)
class OffsetFrames:
    """The frame `offset` behind the begin of each of `num_frames` equal intervals, at most the last of the video.

    Attributes:
        num_frames: Frames that come out.
        offset: Frames from the begin of an interval.
    """

    num_frames: int = 16
    offset: int = 0

    def __post_init__(self) -> None:
        _check_count(self.num_frames)
        if self.offset < 0:
            raise ValueError(f"offset must not be negative, got {self.offset}")

    def indices(self, total: int, fps: float) -> list[int]:
        """See `FrameSampling`; the rate plays no part."""
        _check(total, fps)
        spans = _intervals(total, min(self.num_frames, total))
        return _filled([min(first + self.offset, total - 1) for first, _ in spans], self.num_frames)


@dataclass(frozen=True)
class RandomFrames:
    """A random frame of each of `num_frames` equal intervals: how InternVL trains.

    As there, the last frame of an interval is never drawn, and where an interval has no other a random subset of all
    frames is taken. A video with too few frames has its last one repeated.

    Attributes:
        num_frames: Frames that come out.
        seed: Of the draws. In training it differs from sample to sample and from epoch to epoch, for example
            `f"{seed}/{epoch}/{sample}"`.
    """

    num_frames: int = 16
    seed: int | str = 0

    def __post_init__(self) -> None:
        _check_count(self.num_frames)

    def indices(self, total: int, fps: float) -> list[int]:
        """See `FrameSampling`; the rate plays no part."""
        _check(total, fps)
        draw, count = random.Random(self.seed), min(self.num_frames, total)
        spans = _intervals(total, count)
        if all(first < last for first, last in spans):
            chosen = [draw.choice(range(first, last)) for first, last in spans]
        else:
            chosen = sorted(draw.sample(range(total), count))
        return _filled(chosen, self.num_frames)


@dataclass(frozen=True)
class FramesPerSecond:
    """The frames nearest to the centres of intervals of `1 / fps` seconds.

    A video that is shorter than half an interval may have no such frame: then none is chosen.

    Attributes:
        fps: Frames to take for a second.
        max_frames: Frames at most, the first ones; None: no limit.
    """

    fps: float = 1.0
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps must be positive and finite, not {self.fps}")
        if self.max_frames is not None:
            _check_count(self.max_frames)

    def indices(self, total: int, fps: float) -> list[int]:
        """See `FrameSampling`."""
        _check(total, fps)
        step = 1 / self.fps
        end = total / fps + step / 2
        if self.max_frames is not None:
            end = min(end, (self.max_frames + 1) * step)
        if end / step > _MOST_CHOSEN:
            raise ValueError(f"{self} chooses more than {_MOST_CHOSEN} of {total} frames at {fps:.6g} a second")
        seconds = np.arange(step / 2, end, step)
        chosen = [index for index in np.round(seconds * fps).astype(int).tolist() if index < total]
        return chosen[: self.max_frames]


def draw_frame_count(least: int, most: int, seed: int | str) -> int:
    """Draws how many frames a training sample gets, evenly from `least` to `most`, both included.

    Args:
        least: InternVL's scripts take 8.
        most: InternVL's scripts take 32.
        seed: See `RandomFrames`.

    Raises:
        ValueError: 1 <= least <= most does not hold.
    """
    if not 1 <= least <= most:
        raise ValueError(f"1 <= least <= most does not hold for least {least}, most {most}")
    return random.Random(f"frame count/{seed}").randint(least, most)


class FrameDraw(Protocol):
    """Which frames each sample gets: how many, and which, may be drawn anew for every sample and epoch."""

    def sampling(self, key: str) -> FrameSampling:
        """Returns how frames are chosen.

        Args:
            key: All that a random choice may depend on: seed, epoch, sample.
        """
        ...

    def count(self, key: str, total: int, fps: float) -> int:
        """Returns how many frames that is, without choosing them: `len(sampling(key).indices(total, fps))`."""
        ...

    def most(self, total: int, fps: float) -> int:
        """Returns the largest number of frames that a video of `total` frames, `fps` a second, can get."""
        ...


@dataclass(frozen=True)
class DrawnFrames:
    """A number of frames drawn evenly from `least` to `most`, each from its part of the video: how InternVL trains.

    Attributes:
        least: Frames at least; InternVL's scripts take 8.
        most_frames: Frames at most; InternVL's scripts take 32.
    """

    least: int = 8
    most_frames: int = 32

    def __post_init__(self) -> None:
        draw_frame_count(self.least, self.most_frames, 0)
        _check_count(self.most_frames)

    def sampling(self, key: str) -> RandomFrames:
        """See `FrameDraw`."""
        return RandomFrames(draw_frame_count(self.least, self.most_frames, key), key)

    def count(self, key: str, total: int, fps: float) -> int:
        """See `FrameDraw`."""
        return draw_frame_count(self.least, self.most_frames, key)

    def most(self, total: int, fps: float) -> int:
        """See `FrameDraw`."""
        return self.most_frames


@dataclass(frozen=True)
class SameFrames:
    """One way to choose frames for all samples, without chance.

    Attributes:
        choice: How.
    """

    choice: FrameSampling

    def sampling(self, key: str) -> FrameSampling:
        """See `FrameDraw`."""
        return self.choice

    def count(self, key: str, total: int, fps: float) -> int:
        """See `FrameDraw`."""
        return len(self.choice.indices(total, fps))

    def most(self, total: int, fps: float) -> int:
        """See `FrameDraw`."""
        return len(self.choice.indices(total, fps))
