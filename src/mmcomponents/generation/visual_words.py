"""Nearest words of visual tokens: what an image is like for the language model (LangBridge, arXiv 2503.19404)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcomponents.batch import ImageBatch
from mmcomponents.component import WiringError
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TileWords:
    """Words of the visual tokens of a tile.

    Attributes:
        words: Words of each visual token, nearest first.
        cosines: `[n, k]` cosines of token and word.
        grid: Rows and columns of the visual tokens; None if they have no places in the tile.
    """

    words: list[list[str]]
    cosines: Tensor
    grid: tuple[int, int] | None


@torch.no_grad()
def nearest_words(
    model: MultimodalModel, pixels: Tensor, tokenizer: PreTrainedTokenizerBase, top: int = 5
) -> list[TileWords]:
    """Finds the words whose embeddings have the largest cosine with each visual token.

    Works for any projector: visual tokens of LangBridge are sums of embeddings, those of others need not be near any.
    Added tokens and tokens without a visible character are left out.

    Args:
        model: Model with a vision encoder and an embedding weight.
        pixels: `[N, 3, H, W]` normalised tiles.
        tokenizer: Tokenizer of the model.
        top: Number of words of a visual token.

    Returns:
        The words of each tile.

    Raises:
        WiringError: The model has no embedding weight, or its visual tokens have another width.
        ValueError: `top` is less than 1 or more than there are words.
    """
    weight = None if model.embedder is None else model.embedder.embedding_weight()
    if weight is None:
        raise WiringError("the model has no embedding weight, so its visual tokens have no nearest words")
    ids, texts = _visible(tokenizer, weight.shape[0])
    if not 1 <= top <= len(ids):
        raise ValueError(f"top must be from 1 to {len(ids):,}, the number of words, got {top}")
    images = ImageBatch(pixels.to(weight.device, weight.dtype), torch.arange(len(pixels), device=weight.device))
    features = model.encode(images)
    tokens = model.project(features).unflatten(0, (len(pixels), -1))
    if tokens.shape[-1] != weight.shape[1]:
        raise WiringError(f"visual tokens have the width {tokens.shape[-1]} and words the width {weight.shape[1]}")
    words = normalize(weight[ids.to(weight.device)].float(), dim=-1)
    rows, columns = features.primary.hw
    grid = (rows, columns) if rows * columns == tokens.shape[1] else None
    found = []
    for tile in tokens:  # one at a time, since a tile has as many cosines as tokens times words
        best = (normalize(tile.float(), dim=-1) @ words.T).topk(top)
        nearest = [[texts[place] for place in places] for places in best.indices.tolist()]
        found.append(TileWords(nearest, best.values.cpu(), grid))
    return found


def _visible(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[Tensor, list[str]]:
    """Returns ids and texts of the tokens that can be shown."""
    added = tokenizer.added_tokens_decoder
    ids = [number for number in sorted(set(tokenizer.get_vocab().values())) if number not in added]
    texts = tokenizer.batch_decode([[number] for number in ids], clean_up_tokenization_spaces=False)
    shown = [(n, text) for n, text in zip(ids, texts, strict=True) if n < vocab_size and text.strip().isprintable()]
    shown = [(n, text) for n, text in shown if text.strip()]
    return torch.tensor([n for n, _ in shown]), [text for _, text in shown]
