"""Many answers to many questions: each prompt is read once, and its cache forked into as many answers as are wanted.

A rollout depends on (seed, key of the question, number of the sample) alone. Batches are planned over all questions,
also over those that an earlier run has answered, so that a run that was stopped goes on with the same batches: sums
inside a matrix product depend on its shape, and a draw that falls on a border would come out differently.

Rollouts run in one process. Several processes take different questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from mmcomponents.data import RenderedSample, SampleRenderer, TiledImage, collate, place_media
from mmcomponents.data.chat import Message, end_ids, render_prompt
from mmcomponents.data.errors import SampleError
from mmcomponents.inference.inputs import check_length, evaluating
from mmcomponents.inference.sampler import Autoregressive, Draws
from mmcomponents.inference.text import TextStream
from mmcomponents.model import MultimodalModel

Media = Callable[[], tuple[list[Image.Image], list[list[Image.Image]]]]
"""Loads the images, and the frames of the videos, of a question."""

_Loaded = dict[Media, tuple[list[TiledImage], list[list[TiledImage]]]]

MAX_CACHE = 262_144
"""Tokens that the cache of a batch may hold: 256 answers of 1024 tokens, their prompts included. In bf16 these take
7.5 GB with a language model of 28 layers and 2 heads of 128 for keys and values, twice as much with 4 heads."""

_STEPS_OF_LENGTH = 8
"""Lengths within a power of two that are told apart: questions of about one length keep their order."""

_PLANNED_TOGETHER = 4096
"""Questions that are tokenised in one call."""
_TURN = 6
"""Tokens that the template adds to a turn, about."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        key: Unique and stable: with the seed it decides what is drawn.
        messages: End with the user's turn; `<image>` and `<video>` mark where media go.
        media: Called when the question's turn comes. Questions that share the same function share its images.
        prefix: Begin of the answer that is continued; the rollout's text is what comes after it.
        rows: Visual rows that its media will become, where that is known; None: as many as they can be.
        new_tokens: Tokens of its answers at most, no more than the sampling allows; None: as many as that.
    """

    key: str
    messages: Sequence[Message]
    media: Media | None = None
    prefix: str = ""
    rows: int | None = None
    new_tokens: int | None = None


@dataclass(frozen=True)
class Answers:
    """What was said to a question.

    Attributes:
        texts: One for each sample.
        cut: Numbers of the samples that the limit of new tokens has ended; the others came to an end by themselves.
    """

    texts: list[str] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    def add(self, more: Answers) -> None:
        """Appends further samples."""
        self.cut.extend(len(self.texts) + number for number in more.cut)
        self.texts.extend(more.texts)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        samples: Answers of each question.
        max_new_tokens: Tokens of an answer at most.
        temperature: 0 takes the likeliest token.
        top_p: Draws from the smallest set of tokens whose probabilities sum to this.
        top_k: Draws from the k likeliest tokens; 0: from all.
        stop: Further texts at which an answer ends; they are cut off.
        seed: Of the draws.
        greedy_first: The first sample takes the likeliest tokens, the others are drawn (VisualPRM's best-of-N).

    Raises:
        ValueError: A number is out of its range.
    """

    samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    greedy_first: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        self.sampler()

    def sampler(self) -> Autoregressive:
        """What picks the tokens."""
        return Autoregressive(self.max_new_tokens, self.temperature, self.top_p, self.top_k)


def _new_tokens(question: Question, sampling: Sampling) -> int:
    return sampling.max_new_tokens if question.new_tokens is None else question.new_tokens


@dataclass(frozen=True)
class _Limits:
    """Of a batch."""

    tokens: int
    segments: int
    cache: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.segments, self.cache) < 1:
            raise ValueError(
                f"max_tokens, max_segments and max_cache must be at least 1, got {self.tokens}, {self.segments} and"
                f" {self.cache}"
            )


@dataclass(frozen=True)
class _Part:
    """Some samples of a question that are drawn together."""

    question: Question
    samples: range


def rollouts(
    model: MultimodalModel,
    renderer: SampleRenderer,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    max_tokens: int = 16384,
    max_segments: int = 256,
    max_cache: int = MAX_CACHE,
    progress: Callable[[int, int], None] | None = None,
    done: Collection[str] = (),
    refuse: Callable[[Question, SampleError], None] | None = None,
) -> Iterator[tuple[Question, Answers]]:
    """Answers questions, those of about one length together, the longest first.

    Args:
        model: The model; its mode is as before whenever an answer is given out.
        renderer: Tokenizer, tiling and so on.
        questions: What is asked; keys are unique.
        sampling: How answers are drawn.
        max_tokens: Tokens of a batch at most, each question with one answer; a longer question is a batch of its own.
        max_segments: Answers of a batch at most.
        max_cache: Tokens of a batch at most that the cache holds, each answer with its prompt, which is forked: what
            bounds the memory. One answer may be longer. See `MAX_CACHE`.
        progress: Called with (questions done, questions in all).
        done: Keys of questions that are answered already. They are not given out again, and the batches of the others
            are what they would be with them.
        refuse: Takes a question that cannot be asked, with the reason; None: the reason is raised.

    Yields:
        Each question with its answers, in the order in which they come.

    Raises:
        SampleError: A question cannot be asked, and `refuse` is None; the message names it.
        ValueError: Two questions have one key, or a number is out of its range.
    """
    limits = _Limits(max_tokens, max_segments, max_cache)
    seen = set[str]()
    for question in questions:
        if question.key in seen:
            raise ValueError(f"two questions have the key {question.key!r}")
        if not 1 <= _new_tokens(question, sampling) <= sampling.max_new_tokens:
            raise ValueError(
                f"{question.key}: new_tokens must be from 1 to {sampling.max_new_tokens}, got {question.new_tokens}"
            )
        seen.add(question.key)
    known = seen.intersection(done)
    finished = len(known)
    answers: dict[str, Answers] = {}
    # Without chance all samples are one.
    drawn = sampling.samples if sampling.temperature else 1
    for batch in _batches(questions, renderer, drawn, sampling, limits):
        if progress is not None:
            progress(finished, len(questions))
        if all(part.question.key in known for part in batch):
            continue
        said, refused = _answer(model, renderer, batch, sampling)
        for part, found in zip(batch, said, strict=True):
            question = part.question
            if question.key in known:
                continue
            if (error := refused.get(question.key)) is not None:
                if refuse is None:
                    raise SampleError(f"{question.key}: {error}")
                refuse(question, error)
                known.add(question.key)
                finished += 1
                continue
            mine = answers.setdefault(question.key, Answers())
            for _ in range(sampling.samples // drawn):
                mine.add(found)
            if len(mine.texts) == sampling.samples:
                finished += 1
                yield question, answers.pop(question.key)
    if progress is not None:
        progress(finished, len(questions))


def _batches(
    questions: Sequence[Question],
    renderer: SampleRenderer,
    samples: int,
    sampling: Sampling,
    limits: _Limits,
) -> Iterator[list[_Part]]:
    """Parts that are decoded together; none of it depends on what was done before."""
    planned = zip(questions, _planned(questions, renderer), strict=True)
    lengths = [length + _new_tokens(question, sampling) for question, length in planned]
    order = sorted(range(len(questions)), key=lambda number: (-_grade(lengths[number]), number))
    batch: list[_Part] = []
    tokens = segments = cached = 0
    for number in order:
        length = lengths[number]
        most = max(1, min(limits.segments, limits.cache // length))
        for first in range(0, samples, most):
            part = _Part(questions[number], range(first, min(samples, first + most)))
            count = len(part.samples)
            tokens, segments, cached = tokens + length, segments + count, cached + count * length
            if batch and (tokens > limits.tokens or segments > limits.segments or cached > limits.cache):
                yield batch
                batch, tokens, segments, cached = [], length, count, count * length
            batch.append(part)
    if batch:
        yield batch


def _grade(length: int) -> int:
    """A length in steps of an eighth of a power of two or finer, so that neighbours stay together."""
    return math.ceil(math.log2(max(length, 1)) * _STEPS_OF_LENGTH)


def _planned(questions: Sequence[Question], renderer: SampleRenderer) -> list[int]:
    """About as many tokens as each prompt has, and hardly fewer; nothing is loaded for it."""
    tiling = renderer.tiling
    most = (tiling.max_tiles + int(tiling.thumbnail and tiling.max_tiles > 1)) * renderer.tokens_per_tile
    system, lengths = renderer.system_tokens, []
    for first in range(0, len(questions), _PLANNED_TOGETHER):
        some = questions[first : first + _PLANNED_TOGETHER]
        # what cannot be written as UTF-8 is refused when its turn comes
        texts = ["".join([*(m["content"] for m in q.messages), q.prefix]).encode("utf-8", "replace") for q in some]
        encoded = renderer.tokenizer([t.decode() for t in texts], add_special_tokens=False, verbose=False)["input_ids"]
        for question, ids in zip(some, encoded, strict=True):
            rows = question.rows
            if rows is None:
                rows = 0 if question.media is None else most
            lengths.append(rows + len(ids) + _TURN * (len(question.messages) + 1) + system)
    return lengths


def _answer(
    model: MultimodalModel, renderer: SampleRenderer, batch: Sequence[_Part], sampling: Sampling
) -> tuple[list[Answers], dict[str, SampleError]]:
    """Answers of each part, none where its question is refused; and why those are refused."""
    prompts, refused = _prompts(model, renderer, batch, sampling)
    asked = [part for part, prompt in zip(batch, prompts, strict=True) if prompt is not None]
    if not asked:
        return [Answers() for _ in batch], refused
    read = [prompt for prompt in prompts if prompt is not None]
    pack = collate(read, renderer.tokens_per_tile, renderer.pad_id).to(model.device)
    names = [(part.question.key, sample) for part in asked for sample in part.samples]
    limits = [_new_tokens(part.question, sampling) for part in asked for _ in part.samples]
    draws = None
    if sampling.temperature:
        greedy = [sampling.greedy_first and sample == 0 for _, sample in names]
        draws = Draws.of(sampling.seed, names, sampling.max_new_tokens, greedy).to(model.device)
    streams = [TextStream(renderer.tokenizer, sampling.stop) for _ in names] if sampling.stop else None
    ids: list[list[int]] = [[] for _ in names]

    def ended(segment: int) -> bool:
        return len(ids[segment]) >= limits[segment] or (streams is not None and streams[segment].ended)

    steps = sampling.sampler().steps(
        model,
        pack,
        end_ids(renderer.tokenizer),
        ended=ended,
        draws=draws,
        repeats=[len(part.samples) for part in asked],
    )
    with evaluating(model):
        for new in steps:
            for segment, token in new.items():
                ids[segment].append(token)
                if streams is not None:
                    streams[segment].push(token)
    if streams is None:
        texts = [str(renderer.tokenizer.decode(tokens)) for tokens in ids]
    else:
        for stream in streams:
            stream.finish()
        texts = [stream.text for stream in streams]
    # What a stop token ended lacks a token of its limit, and what a stop text ended has ended its stream.
    cut = [len(tokens) >= limit for tokens, limit in zip(ids, limits, strict=True)]
    if streams is not None:
        cut = [long and not stream.ended for long, stream in zip(cut, streams, strict=True)]
    said, first = list[Answers](), 0
    for part, prompt in zip(batch, prompts, strict=True):
        last = first if prompt is None else first + len(part.samples)
        said.append(Answers(texts[first:last], [place for place, was in enumerate(cut[first:last]) if was]))
        first = last
    return said, refused


def _prompts(
    model: MultimodalModel, renderer: SampleRenderer, batch: Sequence[_Part], sampling: Sampling
) -> tuple[list[RenderedSample | None], dict[str, SampleError]]:
    """Loads what a batch shows; what cannot be asked is None, with its reason."""
    loaded: _Loaded = {}
    prompts: list[RenderedSample | None] = []
    refused: dict[str, SampleError] = {}
    for part in batch:
        question = part.question
        try:
            images, videos = _shown(question.media, renderer, loaded)
            placed, order = place_media(question.messages, images, videos, renderer.frame_template)
            if order and model.vision is None:
                raise SampleError("the question shows an image, and the model has no vision")
            how = (renderer.tokenizer, renderer.rows(order), renderer.system, renderer.control_text)
            chat = render_prompt(placed, *how, prefix=question.prefix)
            try:
                check_length(model, [len(chat.input_ids)], _new_tokens(question, sampling), None)
            except ValueError as error:
                raise SampleError(str(error)) from error
            prompts.append(RenderedSample(chat, order, key=question.key))
        except SampleError as error:
            refused[question.key] = error
            prompts.append(None)
    return prompts, refused


def _shown(
    media: Media | None, renderer: SampleRenderer, loaded: _Loaded
) -> tuple[list[TiledImage], list[list[TiledImage]]]:
    """The tiles of a question; questions that share them are given the same, which are encoded once."""
    if media is None:
        return [], []
    if media not in loaded:
        pictures, films = media()
        loaded[media] = renderer.tile(pictures), [renderer.tile_frames(film) for film in films]
    return loaded[media]
