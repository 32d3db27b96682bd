"""Answers of any kind to prompts of text, images and videos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from PIL.Image import Image

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import end_ids
from mmcomponents.data.loading.prompts import prompt_batch
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.extras import Extra
from mmcomponents.generation.base import Answer, Context, Sampler
from mmcomponents.generation.inputs import (
    FRAMES,
    Pictures,
    Videos,
    check_length,
    load_pictures,
    load_videos,
    make_renderer,
    segment_lengths,
)
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | Sequence[Message]
"""A question, or a conversation that ends with the user's turn."""


class HasFields(Protocol):
    """Interface of samplers that add fields to a pack of prompts; see `Sampler.fields`."""

    def fields(self, model: MultimodalModel, images: Sequence[Sequence[Image]]) -> dict[str, Extra]:
        """Returns the fields of prompts with images."""
        ...


@torch.no_grad()
def answer_prompts(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None = None,
    *,
    sampler: Sampler,
    videos: Sequence[Videos] | None = None,
    seed: int | None = None,
    max_length: int | None = None,
    frames: FrameSampling = FRAMES,
    renderer: SampleRenderer | None = None,
    keys: Sequence[str] | None = None,
) -> list[Answer]:
    """Answers prompts in one batch with any sampler: with texts, pictures or values.

    Args:
        model: The model. Its mode (training or evaluation) is restored.
        tokenizer: Has the tokens of the chat template.
        prompts: Questions, or conversations that end with the user's turn.
        images: Image or images of each prompt, or None.
        sampler: Answers the prompts.
        videos: Video or videos of each prompt, or None.
        seed: Seed of the draws. None: torch's global generator.
        max_length: Maximum number of tokens of a prompt and its answer. None: the limit of the model's positions.
        frames: Selects the frames of a video file.
        renderer: Tiling, normalisation and system text. None: as in `generate`.
        keys: Key of each prompt. The draws of a prompt then depend on seed and key alone, not on the other prompts.
            None: the prompts share one sequence of draws.

    Returns:
        One answer for each prompt.

    Raises:
        WiringError: The sampler does not return what it declares.
    """
    renderer = renderer or make_renderer(model, tokenizer)
    batch = collate_prompts(model, renderer, prompts, images, videos, frames, sampler)
    if batch is None:
        return []
    sampler.check(model)
    check_length(model, segment_lengths(batch), sampler.answer_length(model), max_length, sampler.answers == "text")
    if keys is not None:
        batch.segment_sample = torch.tensor([_number(key) for key in keys], device=batch.segment_sample.device)
    if seed is None or keys is not None:
        batch.seed = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
    generator = seeded(model, seed) if keys is None else None
    context = Context(renderer.tokenizer, end_ids(renderer.tokenizer), generator)
    with evaluating(model):
        return sampler.answer(model, batch, context)


def collate_prompts(
    model: MultimodalModel,
    renderer: SampleRenderer,
    prompts: Sequence[Prompt],
    images: Sequence[Pictures] | None,
    videos: Sequence[Videos] | None,
    frames: FrameSampling,
    sampler: HasFields | None = None,
) -> PackedBatch | None:
    """Returns a pack with one prompt per segment, on the model's device; None without prompts.

    Args:
        model: Model that answers.
        renderer: Renders the prompts.
        prompts: Questions or conversations.
        images: Image or images of each prompt, or None.
        videos: Video or videos of each prompt, or None.
        frames: Selects the frames of a video file.
        sampler: Adds the fields that it needs; see `Sampler.fields`.

    Raises:
        ConversationError: A conversation or its number of images is wrong.
        ImageError: An image cannot be read.
        VideoError: A video cannot be read.
        ValueError: Prompts, images and videos differ in number.
    """
    if isinstance(prompts, str):
        raise ValueError("prompts must be a list of prompts, got one str")
    for name, given in (("images", images), ("videos", videos)):
        if given is not None and len(given) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {name} for {len(given)}")
    if not prompts:
        return None
    conversations = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
    pictures = [[] for _ in prompts] if images is None else [load_pictures(given) for given in images]
    films = None if videos is None else [load_videos(given, frames) for given in videos]
    batch = prompt_batch(conversations, None if images is None else pictures, renderer, films)
    if sampler is not None:
        batch.extras.update(sampler.fields(model, pictures))
    return batch.to(model.device)


def _number(key: str) -> int:
    """Returns a number of a key, from 0 to 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "little") >> 1


def seeded(model: MultimodalModel, seed: int | None) -> torch.Generator | None:
    """Returns a seeded generator on the model's device; None without a seed."""
    return None if seed is None else torch.Generator(model.device).manual_seed(seed)
