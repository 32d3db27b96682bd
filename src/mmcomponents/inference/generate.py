"""Answers from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from mmcomponents.data import SampleRenderer, Tiling, decode_image, prompt_batch
from mmcomponents.data.chat import Message, end_ids
from mmcomponents.inference.sampler import Autoregressive
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Picture = Image.Image | str | Path | bytes
"""An image: decoded, or the path or the bytes of a file."""


def generate(
    model: MultimodalModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[Message]],
    images: Sequence[Picture | Sequence[Picture] | None] | None = None,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    renderer: SampleRenderer | None = None,
) -> list[str]:
    """Answers prompts, all of them side by side in one pack.

    Args:
        model: The model. Its mode (training or evaluation) is as before when this returns.
        tokenizer: Has the tokens of the chat template.
        prompts: Questions, or conversations that end with the user's turn. `<image>` marks where an image goes; one
            image without a mark goes in front.
        images: For each prompt its image or images, or None.
        max_new_tokens: Tokens at most for a prompt.
        temperature: 0 takes the likeliest token.
        top_p: Draws from the smallest set of tokens whose probabilities sum to this.
        top_k: Draws from the k likeliest tokens; 0: from all.
        stop: Further texts at which an answer ends; they are cut off.
        seed: Of the draws; None: torch's global generator.
        renderer: Tiling, colours and system text; None: tiles of the encoder's size, InternVL's defaults otherwise.

    Returns:
        One answer for each prompt.

    Raises:
        ConversationError: A conversation or its number of images is wrong.
        ValueError: Another argument is.
    """
    sampler = Autoregressive(max_new_tokens, temperature, top_p, top_k)
    if isinstance(prompts, str):
        raise ValueError("prompts must be a list of prompts, got one str")
    if images is not None and len(images) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and images for {len(images)}")
    if not prompts:
        return []
    if renderer is None:
        side = 448 if model.vision is None else model.vision.image_size
        renderer = SampleRenderer(tokenizer, model.tokens_per_tile or 1, Tiling(tile_size=side))
    conversations = [_conversation(prompt) for prompt in prompts]
    groups = [_pictures(given) for given in images] if images is not None else None
    batch = prompt_batch(conversations, groups, renderer).to(model.device)
    generator = None if seed is None else torch.Generator(model.device).manual_seed(seed)
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        tokens = sampler(model, batch, _stop_ids(tokenizer, stops), generator)
    finally:
        for module, was_training in modes:  # each by itself: a frozen part of a model in training is not
            module.training = was_training
    return [_cut(tokenizer.decode(ids), stops) for ids in tokens]


def _conversation(prompt: str | Sequence[Message]) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _pictures(given: Picture | Sequence[Picture] | None) -> list[Image.Image]:
    if given is None:
        return []
    if isinstance(given, Image.Image | str | Path | bytes):
        given = [given]
    return [_decoded(picture) for picture in given]


def _decoded(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    return decode_image(picture if isinstance(picture, bytes) else Path(picture).read_bytes())


def _stop_ids(tokenizer: PreTrainedTokenizerBase, stops: list[str]) -> set[int]:
    """The end of a turn, and the stop texts that are one token; longer ones are cut off at the end."""
    ids = end_ids(tokenizer)
    for text in stops:
        encoded = tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) == 1:
            ids.add(int(encoded[0]))
    return ids


def _cut(text: str, stops: list[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
