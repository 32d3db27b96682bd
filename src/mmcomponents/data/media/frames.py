"""Sampling of video frames: a choice of frame indices from the number of frames and the frame rate.

The sampling methods are those of InternVL's released training code (arXiv 2504.10479 describes no others); the tests
contain its results. `indices` is a pure function: a random choice depends only on its seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

_MOST_FRAMES = 100_000
"""Maximum number of frames; a larger number is an error and would exhaust the memory."""


class FrameSampling(Protocol):
    """Method of choosing frames."""

    def indices(self, total: int, fps: float) -> list[int]:
        """Returns the chosen frame indices, ascending from 0 to `total - 1`, possibly with repetitions.

        Args:
            total: Number of frames of the video.
            fps: Frames per second of the video.

        Raises:
            ValueError: There are no frames, or the rate is not positive.
        """
        ...


def _check(total: int, fps: float) -> None:
    if total < 1 or not fps > 0:
        raise ValueError(f"no frames can be chosen of {total} frames at {fps} per second")


def _check_count(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be positive, not {num_frames}")
    if num_frames > _MOST_FRAMES:
        raise ValueError(f"num_frames must be at most {_MOST_FRAMES}, not {num_frames}")


def _intervals(total: int, count: int) -> list[tuple[int, int]]:
    """Returns the first and last frame of each of `count` intervals of nearly equal length."""
    boundaries = np.linspace(0, total, count + 1).astype(int).tolist()
    return [(a, b - 1) for a, b in pairwise(boundaries)]


def _filled(indices: list[int], count: int) -> list[int]:
    """Pads indices to a length by repeating the last one."""
    return indices + indices[-1:] * (count - len(indices))


@dataclass(frozen=True)
class MiddleFrames:
    """Chooses the middle frame of each of `num_frames` equal intervals; repeats the last frame of a shorter video.

    Attributes:
        num_frames: Number of frames chosen.
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
class RandomFrames:
    """Chooses a random frame of each of `num_frames` equal intervals, as in InternVL's training.

    As there, the last frame of an interval is never drawn; if an interval has a single frame, a random subset of all
    frames is used instead. The last frame of a video with fewer frames is repeated.

    Attributes:
        num_frames: Number of frames chosen.
        seed: Seed of the random choice. In training it depends on sample and epoch, for example
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


def draw_frame_count(least: int, most: int, seed: int | str) -> int:
    """Draws the number of frames of a training sample uniformly from `least` to `most`, inclusive.

    Args:
        least: Minimum; 8 in InternVL's scripts.
        most: Maximum; 32 in InternVL's scripts.
        seed: See `RandomFrames`.

    Raises:
        ValueError: 1 <= least <= most does not hold.
    """
    if not 1 <= least <= most:
        raise ValueError(f"1 <= least <= most does not hold for least {least}, most {most}")
    return random.Random(f"frame count/{seed}").randint(least, most)


class FrameDraw(Protocol):
    """Choice of a frame sampling for each sample and epoch."""

    def sampling(self, key: str) -> FrameSampling:
        """Returns the frame sampling for a key.

        Args:
            key: Everything that a random choice may depend on: seed, epoch, sample.
        """
        ...

    def count(self, key: str, total: int, fps: float) -> int:
        """Returns `len(sampling(key).indices(total, fps))` without choosing the frames."""
        ...

    def most(self, total: int, fps: float) -> int:
        """Returns the maximum number of frames chosen of a video with `total` frames at `fps` per second."""
        ...


@dataclass(frozen=True)
class DrawnFrames:
    """Random frames whose number is drawn uniformly from `least` to `most_frames`, as in InternVL's training.

    Attributes:
        least: Minimum number of frames; 8 in InternVL's scripts.
        most_frames: Maximum number of frames; 32 in InternVL's scripts.
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
    """The same deterministic frame sampling for all samples.

    Attributes:
        choice: Frame sampling.
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
