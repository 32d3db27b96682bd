"""Batches of prompts, for generation and for tests.

A prompt is a segment that ends where the assistant's answer begins. Questions about the same image are segments of one
pack and share its visual tokens, so that the image is encoded once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.kinds import Sample, ask
from mmcomponents.data.chat.placeholders import Message, place_media
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import clips
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.frames import FrameDraw, MiddleFrames, SameFrames
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.media.video import read_video
from mmcomponents.movable import Movable


@dataclass
class PromptBatch(Movable):
    """Batch of questions with known answers.

    Attributes:
        batch: One segment for each question; without questions, the pack with a single padding token.
        questions: Texts of the questions, without placeholders of images.
        answers: True answers: texts, or values that JSON can hold.
        kinds: Kind of each question, "" if the data has none.
        keys: Shard and key of each question's sample.
        pictures: File contents of the first image of each question, None for text only.
        forms: What each question asks for, see `Prompt.form`.
    """

    batch: PackedBatch
    questions: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pictures: list[bytes | None] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)


def prompt_batch(
    conversations: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]] | None,
    renderer: SampleRenderer,
    videos: Sequence[Sequence[Sequence[Image.Image]]] | None = None,
) -> PackedBatch:
    """Makes a pack of prompts, one segment each.

    Args:
        conversations: Conversations, each of which ends with a message of the user.
        images: Images of each conversation. The same image objects are encoded once.
        renderer: Renderer of the samples.
        videos: Videos of each conversation, each a list of frames, see `read_video`. The same frame objects are encoded
            once.

    Raises:
        ConversationError: A conversation cannot be rendered.
        ImageError: An image is broken or too large.
        ValueError: Conversations and lists of images or videos differ in number.
    """
    image_lists = [[] for _ in conversations] if images is None else [list(group) for group in images]
    video_lists = [[] for _ in conversations] if videos is None else [list(group) for group in videos]
    for name, groups in (("images", image_lists), ("videos", video_lists)):
        if len(groups) != len(conversations):
            raise ValueError(f"{len(conversations)} conversations, {len(groups)} lists of {name}")
    tiled: dict[tuple[int, ...], list[TiledImage]] = {}
    tiled_videos: dict[tuple[int, ...], list[TiledImage]] = {}
    samples = []
    for number, (messages, group, shown) in enumerate(zip(conversations, image_lists, video_lists, strict=True)):
        same = tuple(id(image) for image in group)
        if same not in tiled:
            tiled[same] = renderer.tile(group)
        keys = [tuple(id(frame) for frame in video) for video in shown]
        for video, key in zip(shown, keys, strict=True):
            if key not in tiled_videos:
                tiled_videos[key] = renderer.tile_frames(video)
        typed = renderer.typed(messages[0]["content"], tiled[same]) if len(messages) == 1 and not keys else None
        if typed is not None:
            typed.sample, typed.key = number, f"prompt/{number}"
            samples.append(typed)
            continue
        own_videos = [tiled_videos[key] for key in keys]
        placed, tiles = place_media(messages, tiled[same], own_videos, renderer.frame_template)
        chat = renderer.prompt(placed, tiles)
        samples.append(RenderedSample.of_chat(chat, tiles, sample=number, key=f"prompt/{number}"))
    return collate(samples, renderer.tokens_per_tile, renderer.pad_id)


_Asked = tuple[Prompt, bytes | None]
"""A prompt, with the file of the first image of its sample; None if the prompt uses no image."""


class Prompts(Dataset[PromptBatch]):
    """Base class of batches of questions, by number; None gives the batch without questions.

    Attributes:
        samples: Number of samples, of which a share may be skipped.
    """

    samples: int

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of batches."""

    @abstractmethod
    def __getitem__(self, number: int | None) -> PromptBatch:
        """Returns one batch; None: the batch without questions, for a rank that has none left while others do."""


class PromptDataset(Prompts):
    """Dataset of the questions of an index, each as a prompt of its own.

    Args:
        index: Index of the samples.
        renderer: Renderer of the samples; each image of a prompt has the whole budget of tiles.
        prompts_per_batch: Largest number of questions in a batch; the questions of one sample always stay together.
        questions: Number of questions, taken from the first samples; None: all.
        frames: Frame sampling of videos. Default: the middle of evenly spaced parts.
        tilings: Tilings of some sources, by source number; others use the renderer's.
        seed: Seed of draws, see `PackedBatch.generators`.

    Attributes:
        samples: Number of samples.
        turns: Number of questions of all samples.
    """

    def __init__(
        self,
        index: Index,
        renderer: SampleRenderer,
        prompts_per_batch: int,
        questions: int | None = None,
        frames: FrameDraw | None = None,
        tilings: Mapping[int, Tiling] | None = None,
        seed: int = 0,
    ) -> None:
        if prompts_per_batch < 1 or (questions is not None and questions < 1):
            raise ValueError(f"prompts_per_batch {prompts_per_batch} and questions {questions} must be positive")
        self.index, self.renderer, self.seed, self.samples = index, renderer.for_prompts(), seed, len(index)
        self.frames = frames or SameFrames(MiddleFrames())
        self.tilings = {source: replace(tiling, share=False) for source, tiling in (tilings or {}).items()}
        self.batches: list[list[tuple[int, int]]] = []  # (sample, number of its questions)
        turns = np.concatenate([index.columns(shard).turns for shard in range(len(index.shards))])
        self.turns = int(turns.sum())
        left, capacity = self.turns if questions is None else questions, 0
        for sample, answers in enumerate(turns.tolist()):
            if left <= 0:
                break
            asked = min(max(answers, 1), left)  # a sample with a problem has no turns, and must be reported
            if not self.batches or asked > capacity:
                self.batches.append([])
                capacity = prompts_per_batch
            self.batches[-1].append((sample, asked))
            capacity, left = capacity - asked, left - (asked if answers else 0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int | None) -> PromptBatch:
        """Returns one batch; None: the batch without questions, for a rank that has none left while others do."""
        prompts, refused = list[_Asked](), list[str]()
        for sample, asked in self.batches[number] if number is not None else ():
            try:
                prompts += self._ask(sample, asked)
            except SampleError as error:
                refused.append(f"{self.index.name(sample)}: {error}")
        return self._batch(prompts, refused)

    def one_question_each(self, count: int) -> PromptBatch:
        """Returns one question of each of the first samples with an image, then of the first others.

        The choice is fixed: the first question of the first sample, the second of the second, and so on cyclically.

        Args:
            count: Largest number of samples.
        """
        chosen = list[_Asked]()
        for sample, turns in _to_ask(self.index, count):
            with suppress(SampleError):  # reported when the sample is read as data
                prompts = self._ask(sample, turns)
                chosen += [prompts[len(chosen) % len(prompts)]] if prompts else []
        return self._batch(chosen)

    def _ask(self, sample: int, asked: int) -> list[_Asked]:
        """Reads and renders the first questions of one sample."""
        stored = self.index.read(sample)
        name, source = self.index.name(sample), self.index.source(sample)
        images = self.renderer.decode(stored.images, self.tilings.get(source))
        videos = [
            self.renderer.tile_frames(read_video(video, self.frames.sampling(""), clip))
            for video, clip in zip(stored.videos, clips(stored.record, len(stored.videos)), strict=True)
        ]
        key = (self.seed, 0, sample, 0)
        read = Sample(stored.record, images, videos, stored.members, sample, name, key, files=stored.images)
        found = []
        for prompt in ask(stored.kind, read, self.renderer, asked):
            prompt.segment.sample, prompt.segment.source, prompt.segment.key = sample, source, name
            found.append((prompt, stored.images[0] if stored.images and prompt.segment.images else None))
        return found

    def _batch(self, asked: Sequence[_Asked], refused: Sequence[str] = ()) -> PromptBatch:
        prompts = [prompt for prompt, _ in asked]
        segments = [prompt.segment for prompt in prompts]
        empty = self.index.kinds.empty()
        return PromptBatch(
            batch=collate(segments, self.renderer.tokens_per_tile, self.renderer.pad_id, refused, empty, self.seed),
            questions=[prompt.question for prompt in prompts],
            answers=[prompt.answer for prompt in prompts],
            kinds=[prompt.kind for prompt in prompts],
            keys=[segment.key for segment in segments],
            forms=[prompt.form for prompt in prompts],
            pictures=[picture for _, picture in asked],
        )


def _to_ask(index: Index, count: int) -> list[tuple[int, int]]:
    """Returns the first samples with images and answers, then the first others with answers, as (sample, answers)."""
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for shard, first in enumerate(index.begins[:-1].tolist()):
        columns = index.columns(shard)
        for samples, side in zip(found, (columns.images > 0, columns.images == 0), strict=True):
            here = np.flatnonzero((columns.turns > 0) & side)[: count - len(samples)]
            samples += [(first + number, int(columns.turns[number])) for number in here.tolist()]
        if len(found[0]) >= count:
            break
    return [*found[0], *found[1]][:count]
