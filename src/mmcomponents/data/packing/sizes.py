"""Sizes of samples in tokens and tiles under the settings of a run, computed from the index alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmcomponents.data.chat.placeholders import frame_prompt
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.format.columns import Columns, Integers
from mmcomponents.data.media.frames import DrawnFrames, FrameDraw
from mmcomponents.data.media.tiling import Tiling


def draw_key(seed: int, epoch: int, sample: int, copy: int, thing: int = 0) -> str:
    """Returns the seed of `random.Random` for the random choices of a sample.

    Args:
        seed: Seed of the run.
        epoch: Epoch number.
        sample: Sample number.
        copy: Number of earlier occurrences of the sample in the epoch.
        thing: Number of the image or video within the sample.
    """
    return f"{seed}/{epoch}/{sample}/{copy}/{thing}"


@dataclass
class Sizes:
    """Computes the sizes of samples from the columns of an index.

    Attributes:
        renderer: Renderer of the samples.
        frames: Choice of video frames.
        tilings: Tilings by source number; the renderer's for the other sources.
        seed: Seed of the random choices.
    """

    renderer: SampleRenderer
    frames: FrameDraw = field(default_factory=DrawnFrames)
    tilings: Mapping[int, Tiling] = field(default_factory=dict)
    seed: int = 0

    def of(self, columns: Columns, samples: Integers, copies: Integers, epoch: int) -> tuple[Integers, Integers]:
        """Returns the `[n]` numbers of tokens and tiles of samples in an epoch, with the drawn frames.

        Args:
            columns: Columns of the samples.
            samples: `[n]` sample numbers.
            copies: `[n]` numbers of earlier occurrences in the epoch.
            epoch: Epoch number.
        """
        drawn = np.zeros(len(columns.video_frames), np.int64)
        for place in np.flatnonzero(columns.videos).tolist():
            begin, end = columns.video_begin[place : place + 2].tolist()
            for video in range(begin, end):
                key = draw_key(self.seed, epoch, int(samples[place]), int(copies[place]), video - begin)
                total, fps = int(columns.video_frames[video]), float(columns.video_fps[video])
                drawn[video] = self.frames.count(key, total, fps)
        return self._of(columns, drawn)

    def largest(self, columns: Columns) -> tuple[Integers, Integers]:
        """Returns the `[n]` numbers of tokens and tiles of samples with the maximum number of frames per video."""
        ends = zip(columns.video_frames.tolist(), columns.video_fps.tolist(), strict=True)
        return self._of(columns, np.array([self.frames.most(total, fps) for total, fps in ends], np.int64))

    def _of(self, columns: Columns, frames: Integers) -> tuple[Integers, Integers]:
        tiles = self._image_tiles(columns)
        # The index counts one frame per video. A video without frames is skipped when it is read.
        costs = self._frame_tokens(int(frames.max(initial=1)))[np.maximum(frames, 1) - 1] if len(frames) else frames
        text = columns.text_tokens + columns.uses * _sum(costs, columns.video_begin)
        tiles = tiles + _sum(frames, columns.video_begin)
        system = np.where(columns.own_system, 0, columns.segments * self._system_tokens)
        tokens = text + columns.uses * tiles * self.renderer.tokens_per_tile + system
        return tokens.astype(np.int64), tiles + columns.own_tiles

    def _image_tiles(self, columns: Columns) -> Integers:
        sample = np.repeat(np.arange(len(columns)), columns.images)
        # There are few distinct shapes, so the tiling is computed once for each.
        shapes = (columns.image_width, columns.image_height, columns.images[sample], columns.source[sample])
        different, which = np.unique(np.stack(shapes, 1).astype(np.int64), axis=0, return_inverse=True)
        counts = [
            self.tilings.get(source, self.renderer.tiling).for_images(images).count(width, height)
            for width, height, images, source in different.tolist()
        ]
        return _sum(np.array(counts, np.int64)[which.reshape(-1)], columns.image_begin)

    @cached_property
    def _system_tokens(self) -> int:
        return self.renderer.system_tokens

    def _frame_tokens(self, most: int) -> Integers:
        """Returns the `[most]` text tokens that a video with 1, 2, … frames has more than one with a single frame."""
        known = self._frame_costs
        while len(known) < most:
            video = frame_prompt(len(known) + 1, self.renderer.frame_template)
            messages = [{"role": "user", "content": video}, {"role": "assistant", "content": ""}]
            known.append(len(render_chat(messages, self.renderer.tokenizer, [0] * (len(known) + 1)).input_ids))
        return np.array(known, np.int64) - known[0]

    @cached_property
    def _frame_costs(self) -> list[int]:
        return []


def _sum(values: Integers, begin: Integers) -> Integers:
    """Sums a ragged column over each sample's part."""
    running = np.concatenate([[0], np.cumsum(values)])
    total: Integers = (running[begin[1:]] - running[begin[:-1]]).astype(np.int64)
    return total
