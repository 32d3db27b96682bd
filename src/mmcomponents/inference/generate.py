"""Answers from Python, whole or while they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from mmcomponents.batch import PackedBatch
from mmcomponents.data import SampleRenderer, prompt_batch
from mmcomponents.data.chat import Message, end_ids
from mmcomponents.data.frames import FrameSampling
from mmcomponents.inference.inputs import (
    FRAMES,
    Pictures,
    Videos,
    check_length,
    evaluating,
    load_pictures,
    load_videos,
    make_renderer,
    segment_lengths,
)
from mmcomponents.inference.past import Past
from mmcomponents.inference.sampler import Autoregressive
from mmcomponents.inference.text import TextStream
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | Sequence[Message]
"""A question, or a conversation that ends with the user's turn."""


def generate(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None = None,
    *,
    videos: Sequence[Videos] | None = None,
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
    """Answers prompts, all of them side by side in one pack.

    Args:
        model: The model. Its mode (training or evaluation) is as before when this returns.
        tokenizer: Has the tokens of the chat template.
        prompts: Questions, or conversations that end with the user's turn. `<image>` and `<video>` mark where an image
            or a video goes; one without a mark goes in front.
        images: For each prompt its image or images, or None: Pillow images, paths, bytes of files, or arrays.
        videos: For each prompt its video or videos, or None: paths, bytes of files, or lists of frames.
        max_new_tokens: Tokens at most for a prompt.
        temperature: 0 takes the likeliest token.
        top_p: Draws from the smallest set of tokens whose probabilities sum to this.
        top_k: Draws from the k likeliest tokens; 0: from all.
        stop: Further texts at which an answer ends; they are cut off.
        seed: Of the draws; None: torch's global generator.
        max_length: Tokens at most of a prompt with its answer; None: as many as the model's positions are good for.
        frames: Which frames of a video file are looked at.
        renderer: Tiling, colours and system text; None: tiles of the encoder's size, InternVL's defaults otherwise.

    Returns:
        One answer for each prompt.

    Raises:
        ConversationError: A conversation or its number of images is wrong.
        ImageError: An image cannot be read.
        VideoError: A video cannot be read.
        ValueError: Another argument is wrong, or a prompt is too long.
    """
    sampler = Autoregressive(max_new_tokens, temperature, top_p, top_k)
    batch = _batch(model, tokenizer, prompts, images, videos, frames, renderer)
    if batch is None:
        return []
    check_length(model, segment_lengths(batch), max_new_tokens, max_length)
    texts = [TextStream(tokenizer, stop_texts(stop)) for _ in prompts]
    for _ in decode(model, batch, sampler, texts, draws(model, seed)):
        pass
    return [text.text for text in texts]


def stream(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    images: Pictures = None,
    *,
    videos: Videos = None,
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
    """Answers one prompt piece by piece; the pieces together are what `generate` returns.

    Arguments and errors are those of `generate`, for one prompt; errors come at once, the model runs as pieces are
    taken. No piece holds half a letter or the begin of a stop text.
    """
    sampler = Autoregressive(max_new_tokens, temperature, top_p, top_k)
    batch = _batch(model, tokenizer, [prompt], [images], [videos], frames, renderer)
    assert batch is not None
    check_length(model, segment_lengths(batch), max_new_tokens, max_length)
    texts = [TextStream(tokenizer, stop_texts(stop))]
    return (piece for (piece,) in decode(model, batch, sampler, texts, draws(model, seed)) if piece)


def decode(
    model: MultimodalModel,
    batch: PackedBatch,
    sampler: Autoregressive,
    texts: Sequence[TextStream],
    generator: torch.Generator | None,
    past: Past | None = None,
) -> Iterator[list[str]]:
    """Runs the sampler and turns its tokens into text: the loop below every way to get an answer.

    Args:
        model: The model.
        batch: A pack with one prompt a segment, on the model's device.
        sampler: How tokens are chosen.
        texts: Takes the tokens of each segment; an answer ends where its text does.
        generator: Source of randomness.
        past: What was read before.

    Yields:
        The new piece of text of each segment after each step, and in the end what was held back.
    """
    stop_ids = end_ids(texts[0].tokenizer)
    with closing(sampler.steps(model, batch, stop_ids, generator, past, lambda segment: texts[segment].ended)) as steps:
        while True:
            with evaluating(model):  # not across a piece: the caller may train, or begin another answer, in between
                new = next(steps, None)
            if new is None:
                break
            yield [text.push(new[segment]) if segment in new else "" for segment, text in enumerate(texts)]
    yield [text.finish() for text in texts]


def draws(model: MultimodalModel, seed: int | None) -> torch.Generator | None:
    """Source of randomness for a seed."""
    return None if seed is None else torch.Generator(model.device).manual_seed(seed)


def stop_texts(stop: str | Sequence[str] | None) -> list[str]:
    """One text or several as a list."""
    return [stop] if isinstance(stop, str) else list(stop or [])


def _batch(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None,
    videos: Sequence[Videos] | None,
    frames: FrameSampling,
    renderer: SampleRenderer | None,
) -> PackedBatch | None:
    """The pack of some prompts on the model's device; None without prompts."""
    if isinstance(prompts, str):
        raise ValueError("prompts must be a list of prompts, got one str")
    for name, given in (("images", images), ("videos", videos)):
        if given is not None and len(given) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {name} for {len(given)}")
    if not prompts:
        return None
    conversations = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
    return prompt_batch(
        conversations,
        None if images is None else [load_pictures(given) for given in images],
        renderer or make_renderer(model, tokenizer),
        None if videos is None else [load_videos(given, frames) for given in videos],
    ).to(model.device)
