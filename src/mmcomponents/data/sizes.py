"""How large samples are under the settings of a run: tokens and tiles, from the index alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmcomponents.data.frames import DrawnFrames, FrameDraw
from mmcomponents.data.placeholders import frame_prompt
from mmcomponents.data.rendering import render_record
from mmcomponents.data.rows import Integers, Rows
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.tiling import Tiling


def draw_key(seed: int, epoch: int, sample: int, copy: int, thing: int = 0) -> str:
    """What the random choices for a sample depend on, as the seed of `random.Random`.

    Args:
        seed: Of the run.
        epoch: Number of the epoch.
        sample: Number of the sample.
        copy: How many times the sample came up in the epoch before.
        thing: Number of the image or video within the sample.
    """
    return f"{seed}/{epoch}/{sample}/{copy}/{thing}"


@dataclass
class Sizes:
    """What the settings of a run make of the rows of an index.

    Attributes:
        renderer: What becomes of a sample.
        frames: Which frames of a video are looked at.
        tilings: How images of some sources are cut, by the number of the source; others are cut as the renderer does.
        seed: Of the draws.
    """

    renderer: SampleRenderer
    frames: FrameDraw = field(default_factory=DrawnFrames)
    tilings: Mapping[int, Tiling] = field(default_factory=dict)
    seed: int = 0

    def of(self, rows: Rows, samples: Integers, copies: Integers, epoch: int) -> tuple[Integers, Integers]:
        """Tokens and tiles of samples in an epoch, `[n]` each, as drawn.

        Args:
            rows: Of the samples.
            samples: `[n]` their numbers.
            copies: `[n]` how many times each came up in the epoch before.
            epoch: Number of the epoch.
        """
        drawn = np.zeros(len(rows.video_frames), np.int64)
        for place in np.flatnonzero(rows.videos).tolist():
            begin, end = rows.video_begin[place : place + 2].tolist()
            for video in range(begin, end):
                key = draw_key(self.seed, epoch, int(samples[place]), int(copies[place]), video - begin)
                total, fps = int(rows.video_frames[video]), float(rows.video_fps[video])
                drawn[video] = self.frames.count(key, total, fps)
        return self._of(rows, drawn)

    def largest(self, rows: Rows) -> tuple[Integers, Integers]:
        """Tokens and tiles of samples, `[n]` each, with as many frames of their videos as can be drawn."""
        ends = zip(rows.video_frames.tolist(), rows.video_fps.tolist(), strict=True)
        return self._of(rows, np.array([self.frames.most(total, fps) for total, fps in ends], np.int64))

    def _of(self, rows: Rows, frames: Integers) -> tuple[Integers, Integers]:
        tiles = self._image_tiles(rows)
        # A video without a single frame is refused when its turn comes; one frame is what the index has counted.
        costs = self._frame_tokens(int(frames.max(initial=1)))[np.maximum(frames, 1) - 1] if len(frames) else frames
        text = rows.text_tokens + rows.segments * _sum(costs, rows.video_begin)
        tiles = tiles + _sum(frames, rows.video_begin)
        system = np.where(rows.own_system, 0, self._system_tokens)
        tokens = text + rows.segments * (tiles * self.renderer.tokens_per_tile + system)
        return tokens.astype(np.int64), tiles

    def _image_tiles(self, rows: Rows) -> Integers:
        sample = np.repeat(np.arange(len(rows)), rows.images)
        # Few shapes are different, so the rule itself runs once for each of them.
        columns = (rows.image_width, rows.image_height, rows.images[sample], rows.source[sample])
        different, which = np.unique(np.stack(columns, 1).astype(np.int64), axis=0, return_inverse=True)
        counts = [
            self.tilings.get(source, self.renderer.tiling).for_images(images).count(width, height)
            for width, height, images, source in different.tolist()
        ]
        return _sum(np.array(counts, np.int64)[which.reshape(-1)], rows.image_begin)

    @cached_property
    def _system_tokens(self) -> int:
        return self.renderer.system_tokens

    def _frame_tokens(self, most: int) -> Integers:
        """`[most]` tokens of a video's prompt with 1, 2, … frames more than with one, without the frames' rows."""
        known = self._frame_costs
        while len(known) < most:
            video = frame_prompt(len(known) + 1, self.renderer.frame_template)
            record = {"messages": [{"role": "user", "content": video}, {"role": "assistant", "content": ""}]}
            chats, _ = render_record(record, [0] * (len(known) + 1), [], list, self.renderer.tokenizer)
            known.append(len(chats[0].input_ids))
        return np.array(known, np.int64) - known[0]

    @cached_property
    def _frame_costs(self) -> list[int]:
        return []


def _sum(values: Integers, begin: Integers) -> Integers:
    """Sums over what each sample owns of a column."""
    running = np.concatenate([[0], np.cumsum(values)])
    total: Integers = (running[begin[1:]] - running[begin[:-1]]).astype(np.int64)
    return total
