"""Prompts: packs whose segments end where the assistant begins to write, for generation and for tests.

The questions about one scene are segments of one pack and use the same rows of the visual table, so that its image is
encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch, _Movable
from mmcomponents.data.chat import Message
from mmcomponents.data.collate import RenderedSample, TiledImage, collate
from mmcomponents.data.errors import SampleError
from mmcomponents.data.frames import FrameDraw, MiddleFrames, SameFrames
from mmcomponents.data.index import Index
from mmcomponents.data.placeholders import place_media
from mmcomponents.data.records import clips, conversation
from mmcomponents.data.samples import SampleRenderer, single_questions
from mmcomponents.data.tiling import Tiling
from mmcomponents.data.video import read_video


@dataclass
class PromptBatch(_Movable):
    """Questions whose answers are known.

    Attributes:
        batch: One segment for each question; without questions it is the pack with a single PAD.
        questions: Texts, without the placeholders of images.
        answers: What the data holds to be right.
        kinds: Kind of each question, "" where the data does not say.
        keys: Shard and key of each question's sample.
        pictures: File of the first image of each question, None for text alone.
    """

    batch: PackedBatch
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pictures: list[bytes | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.questions)


def prompt_batch(
    conversations: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]] | None,
    renderer: SampleRenderer,
    videos: Sequence[Sequence[Sequence[Image.Image]]] | None = None,
) -> PackedBatch:
    """Makes a pack of free prompts, one segment each.

    Args:
        conversations: Messages that end with the user's.
        images: Images of each conversation. The same images given twice are encoded once.
        renderer: Tokenizer, tiling and so on.
        videos: Videos of each conversation, each a list of frames, see `read_video`. The same frames given twice are
            encoded once.

    Raises:
        ConversationError: A conversation cannot be rendered.
        ImageError: An image is broken or too large.
        ValueError: Conversations and lists of images or videos differ in number.
    """
    pictures = [[] for _ in conversations] if images is None else [list(group) for group in images]
    films = [[] for _ in conversations] if videos is None else [list(group) for group in videos]
    for name, groups in (("images", pictures), ("videos", films)):
        if len(groups) != len(conversations):
            raise ValueError(f"{len(conversations)} conversations, {len(groups)} lists of {name}")
    tiled: dict[tuple[int, ...], list[TiledImage]] = {}
    filmed: dict[tuple[int, ...], list[TiledImage]] = {}
    samples = []
    for number, (messages, group, shown) in enumerate(zip(conversations, pictures, films, strict=True)):
        same = tuple(id(image) for image in group)
        if same not in tiled:
            tiled[same] = renderer.tile(group)
        frames = [tuple(id(frame) for frame in clip) for clip in shown]
        for clip, key in zip(shown, frames, strict=True):
            if key not in filmed:
                filmed[key] = renderer.tile_frames(clip)
        placed, tiles = place_media(messages, tiled[same], [filmed[key] for key in frames], renderer.frame_template)
        samples.append(RenderedSample(renderer.prompt(placed, tiles), tiles, number, -1, f"prompt/{number}"))
    return collate(samples, renderer.tokens_per_tile, renderer.pad_id)


class PromptDataset(Dataset[PromptBatch]):
    """The questions of an index, each asked on its own, a few scenes a batch.

    Args:
        index: Where the samples are.
        renderer: What becomes of a sample.
        prompts_per_batch: Most questions of a batch; the questions of one sample stay together, however many.
        questions: Questions in all, from the first samples on; None: all.
        frames: Which frames of a video are looked at.
        tilings: How images of some sources are cut, by the number of the source; others are cut as the renderer does.
    """

    def __init__(
        self,
        index: Index,
        renderer: SampleRenderer,
        prompts_per_batch: int,
        questions: int | None = None,
        frames: FrameDraw | None = None,
        tilings: Mapping[int, Tiling] | None = None,
    ) -> None:
        if prompts_per_batch < 1 or (questions is not None and questions < 1):
            raise ValueError(f"prompts_per_batch {prompts_per_batch} and questions {questions} must be positive")
        self.index, self.renderer = index, renderer
        self.frames, self.tilings = frames or SameFrames(MiddleFrames()), dict(tilings or {})
        self.batches: list[list[tuple[int, int]]] = []  # (sample, number of its questions)
        turns = np.concatenate([index.rows(shard).turns for shard in range(len(index.shards))])
        left, room = int(turns.sum()) if questions is None else questions, 0
        for sample, answers in enumerate(turns.tolist()):
            if left <= 0:
                break
            asked = min(max(answers, 1), left)  # a sample with a problem has no turns, and is to be reported
            if not self.batches or asked > room:
                self.batches.append([])
                room = prompts_per_batch
            self.batches[-1].append((sample, asked))
            room, left = room - asked, left - (asked if answers else 0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int | None) -> PromptBatch:
        """Returns one batch; None: the batch without questions, which keeps ranks in step."""
        prompts = PromptBatch(collate([], self.renderer.tokens_per_tile, self.renderer.pad_id))
        segments: list[RenderedSample] = []
        refused = []
        for sample, asked in self.batches[number] if number is not None else ():
            try:
                self._ask(sample, asked, segments, prompts)
            except SampleError as error:
                refused.append(f"{self.index.name(sample)}: {error}")
        prompts.batch = collate(segments, self.renderer.tokens_per_tile, self.renderer.pad_id, refused)
        return prompts

    def _ask(self, sample: int, asked: int, segments: list[RenderedSample], prompts: PromptBatch) -> None:
        """Adds the questions of one sample, all of them or, on an error, none."""
        stored = self.index.read(sample)
        source = self.index.source(sample)
        images = self.renderer.decode(stored.images, self.tilings.get(source))
        films = [
            self.renderer.tile_frames(read_video(film, self.frames.sampling(""), clip))
            for film, clip in zip(stored.videos, clips(stored.record, len(stored.videos)), strict=True)
        ]
        messages, order = place_media(conversation(stored.record), images, films, self.renderer.frame_template)
        self.renderer.chat(messages, order)  # refuses what training would refuse
        system = [m for m in messages[:1] if m["role"] == "system"]
        kinds = stored.record.get("kinds")
        rendered = []
        for question, answer, used in single_questions(messages)[:asked]:
            mine = order if len(order) == 1 else order[:used]
            chat = self.renderer.prompt([*system, {"role": "user", "content": question}], mine)
            rendered.append((question, answer, RenderedSample(chat, mine, sample, source, self.index.name(sample))))
        for number, (question, answer, segment) in enumerate(rendered):
            segments.append(segment)
            prompts.questions.append(question.replace("<image>", "").strip())
            prompts.answers.append(answer)
            prompts.kinds.append(str(kinds[number]) if isinstance(kinds, list) and number < len(kinds) else "")
            prompts.keys.append(segment.key)
            prompts.pictures.append(stored.images[0] if stored.images and segment.images else None)


def one_question_each(asker: PromptDataset, count: int) -> PromptBatch:
    """One question of each of the first samples with an image.

    They are the same each time: the first question of the first sample, the second of the second, and so on round.

    Args:
        asker: The questions.
        count: Samples at most.
    """
    every, segments, chosen = asker[None], list[RenderedSample](), list[int]()
    for sample, turns in _pictured(asker.index, count):
        first = len(segments)
        with suppress(SampleError):  # whoever reads the sample in its turn names it
            asker._ask(sample, turns, segments, every)
            chosen.append(first + len(chosen) % (len(segments) - first))
    return PromptBatch(
        batch=collate([segments[n] for n in chosen], asker.renderer.tokens_per_tile, asker.renderer.pad_id),
        questions=[every.questions[n] for n in chosen],
        answers=[every.answers[n] for n in chosen],
        kinds=[every.kinds[n] for n in chosen],
        keys=[every.keys[n] for n in chosen],
        pictures=[every.pictures[n] for n in chosen],
    )


def _pictured(index: Index, count: int) -> list[tuple[int, int]]:
    """The first samples with images and answers, and the number of these."""
    found: list[tuple[int, int]] = []
    for shard, first in enumerate(index.begins[:-1].tolist()):
        rows = index.rows(shard)
        here = np.flatnonzero((rows.turns > 0) & (rows.images > 0))[: count - len(found)]
        found += [(first + number, int(rows.turns[number])) for number in here.tolist()]
        if len(found) >= count:
            break
    return found
