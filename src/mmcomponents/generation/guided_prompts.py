"""Prompts that are answered with pictures, beside copies whose question is left out.

Source: classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), in SynerGen-VL (arXiv 2412.09604).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.data.chat.picture_prompt import unconditional
from mmcomponents.generation.past import Past

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class _Segment:
    """Token ids of a segment, with types, visual tokens and images of its positions."""

    ids: list[int]
    kind: Tensor
    index: Tensor
    image: Tensor

    @classmethod
    def of_text(cls, ids: Sequence[int], device: torch.device) -> _Segment:
        kind = torch.full((len(ids),), int(TokenType.TEXT), device=device)
        return cls(list(ids), kind, torch.full_like(kind, -1), torch.full_like(kind, -1))

    def with_token(self, token: int) -> _Segment:
        """Returns the segment with a token of text after it."""
        one = _Segment.of_text([token], self.kind.device)
        pairs = ((self.kind, one.kind), (self.index, one.index), (self.image, one.image))
        return _Segment([*self.ids, token], *(torch.cat(pair) for pair in pairs))


def with_starts(
    prompts: PackedBatch, start_id: int, tokenizer: PreTrainedTokenizerBase | None, guided: bool
) -> PackedBatch:
    """Returns prompts with the token that begins an image.

    Args:
        prompts: The prompts, S segments.
        start_id: Id of the token.
        tokenizer: Tokenizer of the prompts; needed with guidance only.
        guided: Whether S segments follow, which are the prompts without their questions.

    Raises:
        ConversationError: A prompt does not have the form of the chat template.
        WiringError: There is guidance and no tokenizer.
    """
    layout, device = prompts.layout, prompts.input_ids.device
    segments = []
    for a, b in pairwise(layout.cu_seqlens.tolist()):
        ids, index, image = prompts.input_ids[a:b].tolist(), prompts.visual_index[a:b], layout.image_id[a:b]
        segments.append(_Segment(ids, layout.token_type[a:b], index, image))
    for segment in segments[:] if guided else ():
        # A rank that has no question left answers a padding token, since others answer theirs.
        is_padding = bool((segment.kind == TokenType.PAD).all())
        segments.append(segment if is_padding else _left_out(segment, tokenizer))
    segments = [segment.with_token(start_id) for segment in segments]
    lengths = torch.tensor([0, *(len(segment.ids) for segment in segments)], device=device)
    twice = 2 if guided else 1
    copies = prompts.segment_copy
    return replace(
        prompts,
        input_ids=torch.tensor([token for segment in segments for token in segment.ids], device=device),
        layout=replace(
            layout,
            token_type=torch.cat([segment.kind for segment in segments]),
            cu_seqlens=lengths.cumsum(0).to(torch.int32),
            max_seqlen=int(lengths.max()),
            image_id=torch.cat([segment.image for segment in segments]),
        ),
        visual_index=torch.cat([segment.index for segment in segments]),
        labels=torch.full((int(lengths.sum()),), IGNORE, device=device),
        segment_sample=prompts.segment_sample.repeat(twice),
        segment_source=prompts.segment_source.repeat(twice),
        keys=[*prompts.keys] * twice,
        segment_copy=None if copies is None else copies.repeat(twice),
        pairs=None,
        steps=None,
        extras={},
    )


def fed(past: Past, batch: PackedBatch) -> PackedBatch:
    """Returns the batch that feeds one fold of each picture in, whose visual tokens are in the order of the segments.

    Args:
        past: State of the tokens before.
        batch: The last batch that the model has processed.
    """
    every = list(range(batch.num_segments))
    one = past.one_more(batch, [0] * len(every), every, TokenType.IMAGE_GEN)
    return replace(one, visual_index=torch.tensor(every, device=batch.input_ids.device))


def _left_out(given: _Segment, tokenizer: PreTrainedTokenizerBase | None) -> _Segment:
    """Returns a prompt without its question; images of the turns before it stay."""
    if tokenizer is None:
        raise WiringError("guidance needs a tokenizer, for the prompt whose question is left out")
    without = unconditional(given.ids, tokenizer)
    segment = _Segment.of_text(without.input_ids, given.kind.device)
    for own, other in ((segment.kind, given.kind), (segment.index, given.index), (segment.image, given.image)):
        own[: without.kept] = other[: without.kept]
    segment.kind[without.place] = int(TokenType.QUERY)
    return segment
