"""Generation of answers, complete or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import end_ids
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.generation.base import Sampler, TokenSampler, check_tokens, decodes_tokens
from mmcomponents.generation.inputs import FRAMES, Pictures, Videos, check_length, make_renderer, segment_lengths
from mmcomponents.generation.past import Past
from mmcomponents.generation.prompt_answers import Prompt, answer_prompts, collate_prompts, seeded
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.generation.text_stream import TextStream
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULTS = {"max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
"""Defaults of the arguments that a sampler replaces."""


def generate(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None = None,
    *,
    videos: Sequence[Videos] | None = None,
    sampler: Sampler | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    max_length: int | None = None,
    frames: FrameSampling = FRAMES,
    renderer: SampleRenderer | None = None,
) -> list[str]:
    """Generates answers to prompts in one batch.

    Args:
        model: The model. Its mode (training or evaluation) is restored.
        tokenizer: Has the tokens of the chat template.
        prompts: Questions, or conversations that end with the user's turn. `<image>` and `<video>` mark the position
            of an image or a video; those without a mark are put first.
        images: Image or images of each prompt, or None: Pillow images, paths, bytes of files, or arrays.
        videos: Video or videos of each prompt, or None: paths, bytes of files, or lists of frames.
        sampler: Answers the prompts with text. None: `Autoregressive` with the next four arguments, which cannot be
            combined with a sampler.
        max_new_tokens: Maximum number of tokens of an answer.
        temperature: 0 selects the most likely token.
        top_p: Samples from the smallest set of tokens whose probabilities sum to this value.
        top_k: Samples from the k most likely tokens. 0: from all.
        stop: Further texts that end an answer; the answer does not include them.
        seed: Seed of the draws. None: torch's global generator.
        max_length: Maximum number of tokens of a prompt and its answer. None: the limit of the model's positions.
        frames: Selects the frames of a video file.
        renderer: Tiling, normalisation and system text. None: tiles of the encoder's size, InternVL's defaults
            otherwise.

    Returns:
        One answer for each prompt.

    Raises:
        ConversationError: A conversation or its number of images is wrong.
        ImageError: An image cannot be read.
        VideoError: A video cannot be read.
        ValueError: Another argument is wrong, or a prompt is too long.
        WiringError: The sampler answers with pictures or values, for which there is `answer_prompts`; or it cannot end
            an answer at a text.
    """
    chosen = text_sampler(sampler, max_new_tokens, temperature, top_p, top_k)
    renderer = renderer or make_renderer(model, tokenizer)
    if not decodes_tokens(chosen) and chosen.answers == "text" and not stop_texts(stop):
        answers = answer_prompts(
            model,
            tokenizer,
            prompts,
            images,
            sampler=chosen,
            videos=videos,
            seed=seed,
            max_length=max_length,
            frames=frames,
            renderer=renderer,
        )
        return [str(answer.shown()) for answer in answers]
    tokens = check_tokens(chosen, "generate with stop texts" if chosen.answers == "text" else "generate")
    texts, steps = _start(model, renderer, tokens, prompts, images, videos, frames, stop, seed, max_length)
    for _ in steps:
        pass
    return [text.text for text in texts]


def stream(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    images: Pictures = None,
    *,
    videos: Videos = None,
    sampler: Sampler | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    max_length: int | None = None,
    frames: FrameSampling = FRAMES,
    renderer: SampleRenderer | None = None,
) -> Iterator[str]:
    """Streams the answer to one prompt; the joined pieces equal the result of `generate`.

    Arguments and errors are those of `generate`, for one prompt. Errors are raised by the call; the model runs when the
    next piece is requested. No piece contains an incomplete character or the start of a stop text.
    """
    chosen = check_tokens(text_sampler(sampler, max_new_tokens, temperature, top_p, top_k), "stream")
    renderer = renderer or make_renderer(model, tokenizer)
    _, steps = _start(model, renderer, chosen, [prompt], [images], [videos], frames, stop, seed, max_length)
    return (piece for (piece,) in steps if piece)


def decode(
    model: MultimodalModel,
    batch: PackedBatch,
    sampler: TokenSampler,
    texts: Sequence[TextStream],
    generator: torch.Generator | None,
    past: Past | None = None,
) -> Iterator[list[str]]:
    """Runs the sampler and decodes its tokens to text.

    Args:
        model: Model in evaluation mode.
        batch: Pack with one prompt per segment, on the model's device.
        sampler: Selects the tokens.
        texts: Receives the tokens of each segment; an answer ends when its text does.
        generator: Random generator.
        past: State of the tokens before the batch.

    Yields:
        The new piece of text of each segment after each step, and finally the text that was held back.
    """
    stop_ids = end_ids(texts[0].tokenizer)
    with closing(sampler.steps(model, batch, stop_ids, generator, past, lambda segment: texts[segment].ended)) as steps:
        while True:
            with evaluating(model):  # not across a yield: the caller may train or start another answer in between
                new = next(steps, None)
            if new is None:
                break
            yield [text.push(new[segment]) if segment in new else "" for segment, text in enumerate(texts)]
    yield [text.finish() for text in texts]


def text_sampler(sampler: Sampler | None, max_new_tokens: int, temperature: float, top_p: float, top_k: int) -> Sampler:
    """Returns a given sampler, or `Autoregressive` with the other arguments.

    Raises:
        ValueError: There are both a sampler and other arguments than their defaults.
    """
    if sampler is None:
        return Autoregressive(max_new_tokens, temperature, top_p, top_k)
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    both = [name for name, value in given.items() if value != _DEFAULTS[name]]
    if both:
        raise ValueError(
            f"{' and '.join(both)} cannot be combined with a sampler: they are arguments of Autoregressive"
        )
    return sampler


def stop_texts(stop: str | Sequence[str] | None) -> list[str]:
    """Returns the stop texts as a list."""
    return [stop] if isinstance(stop, str) else list(stop or [])


def _start(
    model: MultimodalModel,
    renderer: SampleRenderer,
    sampler: TokenSampler,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None,
    videos: Sequence[Videos] | None,
    frames: FrameSampling,
    stop: str | Sequence[str] | None,
    seed: int | None,
    max_length: int | None,
) -> tuple[list[TextStream], Iterator[list[str]]]:
    """Checks and collates prompts; returns the texts of their answers and the steps that fill them."""
    batch = collate_prompts(model, renderer, prompts, images, videos, frames)
    if batch is None:
        return [], iter(())
    check_length(model, segment_lengths(batch), sampler.max_new_tokens, max_length)
    texts = [TextStream(renderer.tokenizer, stop_texts(stop)) for _ in prompts]
    return texts, decode(model, batch, sampler, texts, seeded(model, seed))
