"""Batched sampling of several answers per question; each prompt is prefilled once and its cache forked per answer.

A rollout depends only on (seed, key of the question, sample number). Batches are planned over all questions, including
those answered by an earlier run, so that a resumed run uses the same batches: sums inside a matrix product depend on
its shape, which could change a draw at a probability boundary.

Rollouts run in one process. To use several processes, split the questions among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER, Message, place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import end_ids
from mmcomponents.data.chat.template import render_prompt
from mmcomponents.data.errors import SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage
from mmcomponents.generation.inputs import check_length
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.generation.text_stream import TextStream
from mmcomponents.generation.uniform_draws import Draws
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.modes import evaluating

Media = Callable[[], tuple[list[Image.Image], list[list[Image.Image]]]]
"""Loads the images and the video frames of a question."""

LoadedMedia = dict[Media, tuple[list[TiledImage], list[list[TiledImage]]]]
"""Tiles of images and of video frames, by the function that loaded them."""

MAX_CACHE = 262_144
"""Maximum number of tokens in the cache of a batch: 256 answers of 1024 tokens, including their prompts. In bf16 they
take 7.5 GB with a language model of 28 layers and 2 key-value heads of dimension 128, twice as much with 4 heads."""

_STEPS_OF_LENGTH = 8
"""Length buckets per power of two; questions in the same bucket keep their order."""

_PLANNED_TOGETHER = 4096
"""Number of questions that are tokenized in one call."""
_TURN = 6
"""Approximate number of tokens that the template adds to a turn."""


@dataclass(frozen=True)
class Question:
    """A question to a model.

    Attributes:
        key: Unique and stable; determines the draws together with the seed.
        messages: Conversation that ends with a user turn; `<image>` and `<video>` are placeholders of media.
        media: Loads the media; called when the question's batch is prepared. Questions with the same function share
            its images.
        prefix: Beginning of the answer, which the model continues; the rollout's text does not include it.
        visual_tokens: Number of visual tokens of its media, if known; None: the maximum.
        new_tokens: Maximum number of tokens of its answers, at most that of the sampling; None: that of the sampling.
    """

    key: str
    messages: Sequence[Message]
    media: Media | None = None
    prefix: str = ""
    visual_tokens: int | None = None
    new_tokens: int | None = None


@dataclass(frozen=True)
class Answers:
    """Answers to a question.

    Attributes:
        texts: One text per sample.
        cut: Numbers of the samples that were truncated at the limit of new tokens.
    """

    texts: list[str] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)

    @property
    def whole(self) -> list[str]:
        """The texts that were not truncated."""
        return [text for number, text in enumerate(self.texts) if number not in self.cut]

    def add(self, more: Answers) -> None:
        """Appends further samples."""
        self.cut.extend(len(self.texts) + number for number in more.cut)
        self.texts.extend(more.texts)


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Attributes:
        samples: Number of answers per question.
        max_new_tokens: Maximum number of tokens of an answer.
        temperature: Sampling temperature; 0: greedy decoding.
        top_p: Samples from the smallest set of tokens with at least this total probability.
        top_k: Samples from the k most likely tokens; 0: from all.
        stop: Additional texts at which an answer ends; they are removed.
        seed: Seed of the draws.
        greedy_first: Whether the first sample is greedy and only the others are drawn (VisualPRM's best-of-N).

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
        """Returns the token sampler."""
        return Autoregressive(self.max_new_tokens, self.temperature, self.top_p, self.top_k)


def _new_tokens(question: Question, sampling: Sampling) -> int:
    return sampling.max_new_tokens if question.new_tokens is None else question.new_tokens


@dataclass(frozen=True)
class _Limits:
    """Limits of a batch."""

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
    """Samples of a question that are drawn in one batch."""

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
    """Samples answers to questions in batches of similar length, the longest first.

    Args:
        model: The model; its training mode is restored whenever an answer is yielded.
        renderer: Renders prompts and images.
        questions: Questions with unique keys.
        sampling: Sampling settings.
        max_tokens: Maximum number of tokens of a batch, each question counted with one answer; a longer question forms
            its own batch.
        max_segments: Maximum number of answers of a batch.
        max_cache: Maximum number of tokens in the cache of a batch, each answer counted with its forked prompt; this
            bounds the memory. A single answer may be longer. See `MAX_CACHE`.
        progress: Called with (questions done, total number of questions).
        done: Keys of questions that are already answered. They are not yielded again; the batches of the others are the
            same as with them.
        refuse: Called with a skipped question and the reason; None: the error is raised.

    Yields:
        Each question with its answers, in the order of completion.

    Raises:
        SampleError: A question cannot be rendered or is too long, and `refuse` is None; the message names it.
        ValueError: Two questions have the same key, or a number is out of its range.
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
    # all samples are equal in greedy decoding
    drawn = sampling.samples if sampling.temperature else 1
    for batch in _batches(questions, renderer, drawn, sampling, limits):
        if progress is not None:
            progress(finished, len(questions))
        if all(part.question.key in known for part in batch):
            continue
        sampled, errors = _answer(model, renderer, batch, sampling)
        for part, found in zip(batch, sampled, strict=True):
            question = part.question
            if question.key in known:
                continue
            if (error := errors.get(question.key)) is not None:
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
    """Yields the parts that are decoded together, independently of what is already done."""
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
    """Returns the length bucket, of which there are `_STEPS_OF_LENGTH` per power of two."""
    return math.ceil(math.log2(max(length, 1)) * _STEPS_OF_LENGTH)


def _planned(questions: Sequence[Question], renderer: SampleRenderer) -> list[int]:
    """Estimates the number of tokens of each prompt, rarely too low, without loading media."""
    tiling = renderer.tiling
    most = (tiling.max_tiles + int(tiling.thumbnail and tiling.max_tiles > 1)) * renderer.tokens_per_tile
    system, lengths = renderer.system_tokens, []
    for first in range(0, len(questions), _PLANNED_TOGETHER):
        some = questions[first : first + _PLANNED_TOGETHER]
        # texts that cannot be encoded as UTF-8 are skipped when their batch is prepared
        texts = ["".join([*(m["content"] for m in q.messages), q.prefix]).encode("utf-8", "replace") for q in some]
        encoded = renderer.tokenizer([t.decode() for t in texts], add_special_tokens=False, verbose=False)["input_ids"]
        for question, ids in zip(some, encoded, strict=True):
            visual_tokens = question.visual_tokens
            if visual_tokens is None:
                images = sum(message["content"].count(IMAGE_PLACEHOLDER) for message in question.messages)
                count = 1 if tiling.share else max(1, images)
                visual_tokens = 0 if question.media is None else most * count
            lengths.append(visual_tokens + len(ids) + _TURN * (len(question.messages) + 1) + system)
    return lengths


def _answer(
    model: MultimodalModel, renderer: SampleRenderer, batch: Sequence[_Part], sampling: Sampling
) -> tuple[list[Answers], dict[str, SampleError]]:
    """Returns the answers of each part, empty if its question is skipped, and the errors of the skipped questions."""
    prompts, errors = _prompts(model, renderer, batch, sampling)
    asked = [part for part, prompt in zip(batch, prompts, strict=True) if prompt is not None]
    if not asked:
        return [Answers() for _ in batch], errors
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
    # An answer ended by a stop token is shorter than its limit; one ended by a stop text has ended its stream.
    cut = [len(tokens) >= limit for tokens, limit in zip(ids, limits, strict=True)]
    if streams is not None:
        cut = [long and not stream.ended for long, stream in zip(cut, streams, strict=True)]
    answers, first = list[Answers](), 0
    for part, prompt in zip(batch, prompts, strict=True):
        last = first if prompt is None else first + len(part.samples)
        answers.append(Answers(texts[first:last], [place for place, was in enumerate(cut[first:last]) if was]))
        first = last
    return answers, errors


def _prompts(
    model: MultimodalModel, renderer: SampleRenderer, batch: Sequence[_Part], sampling: Sampling
) -> tuple[list[RenderedSample | None], dict[str, SampleError]]:
    """Loads and renders the prompts of a batch; a skipped question has the prompt None and an error."""
    loaded: LoadedMedia = {}
    prompts: list[RenderedSample | None] = []
    errors: dict[str, SampleError] = {}
    for part in batch:
        question = part.question
        try:
            images, videos = tiled_media(question.media, renderer, loaded)
            placed, order = place_media(question.messages, images, videos, renderer.frame_template)
            if order and model.vision is None:
                raise SampleError("the question contains an image, but the model has no vision")
            chat = render_prompt(
                placed,
                renderer.tokenizer,
                renderer.visual_tokens(order),
                renderer.system,
                renderer.control_text,
                prefix=question.prefix,
            )
            try:
                check_length(model, [len(chat.input_ids)], _new_tokens(question, sampling), None)
            except ValueError as error:
                raise SampleError(str(error)) from error
            prompts.append(RenderedSample.of_chat(chat, order, key=question.key))
        except SampleError as error:
            errors[question.key] = error
            prompts.append(None)
    return prompts, errors


def tiled_media(
    media: Media | None, renderer: SampleRenderer, loaded: LoadedMedia
) -> tuple[list[TiledImage], list[list[TiledImage]]]:
    """Loads images and videos, and splits them into tiles.

    Args:
        media: Function that loads them; None: no media.
        renderer: Determines the tiling.
        loaded: Cache by `media`, so that shared media are encoded once; updated in place.

    Raises:
        SampleError: An image or a video cannot be read.
    """
    if media is None:
        return [], []
    if media not in loaded:
        pictures, films = media()
        loaded[media] = renderer.tile(pictures), [renderer.tile_frames(film) for film in films]
    return loaded[media]
