"""Tokens of the chat template and of images in a language model that was trained without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.data.chat.special_tokens import CONTROL_TOKENS, GROUNDING_TOKENS, IMAGE_CONTEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BY_TOKEN = ("embedder.embedding.weight", "heads.lm.weight")
"""Weights with a row for each token."""


def missing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the tokens of template, images and grounding that a tokenizer does not have."""
    known = tokenizer.get_vocab()
    return [token for token in (*CONTROL_TOKENS, *GROUNDING_TOKENS) if token not in known]


def add_chat_tokens(
    spec: ModelSpec, weights: Mapping[str, Lazy], tokenizer: PreTrainedTokenizerBase
) -> tuple[ModelSpec, dict[str, Lazy]]:
    """Adds the missing tokens to a tokenizer, in place, and rows for them to the weights.

    New rows are the mean of the rows of the other tokens, as in InternVL's training code. No rows are added if the
    model has at least as many as the tokenizer then has tokens.

    Args:
        spec: Description of a model with an embedder.
        weights: Weights by this library's names.
        tokenizer: Tokenizer of the model.

    Returns:
        Description with vocabulary size and image token id, and weights.

    Raises:
        CheckpointError: The model has no token embedding.
    """
    from tokenizers import AddedToken

    if spec.vocab_size is None or _BY_TOKEN[0] not in weights:
        raise CheckpointError("tokens can be added only to a model with a token embedding")
    before, old = len(tokenizer), spec.vocab_size
    new = [AddedToken(token, special=True, normalized=False) for token in missing_tokens(tokenizer)]
    tokenizer.add_tokens(new, special_tokens=True)
    rows = max(old, len(tokenizer))
    found = dict(weights)
    for name in _BY_TOKEN:
        if name in found and (rows > old or new):
            found[name] = _grown(found[name], min(before, old), rows)
    placeholder = int(tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT))
    return replace(spec, vocab_size=rows, image_token_id=placeholder), found


def _grown(weight: Lazy, known: int, rows: int) -> Lazy:
    meta = torch.empty(rows, *weight.meta.shape[1:], dtype=weight.meta.dtype, device="meta")
    return Lazy(meta, partial(_with_means, weight, known, rows))


def _with_means(weight: Lazy, known: int, rows: int) -> Tensor:
    """Returns the rows of the known tokens, then their mean."""
    value = weight.load()
    mean = value[:known].float().mean(dim=0, keepdim=True).to(value.dtype)
    return torch.cat([value[:known], mean.expand(rows - known, *value.shape[1:])])
