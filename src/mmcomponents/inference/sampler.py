"""Autoregressive decoding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, Layout, ModelState, PackedBatch, Runtime, TokenType
from mmcomponents.component import Component
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.cache import KVCache


class Sampler(Component):
    """Drives inference: makes an answer for each segment of a pack of prompts."""

    @abstractmethod
    def forward(
        self,
        model: MultimodalModel,
        prompts: PackedBatch,
        stop_ids: Collection[int],
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """New token ids for each segment, without the stop token."""


class Autoregressive(Sampler):
    """One token after another, with a cache of keys and values; all prompts of a pack go on side by side.

    The position of a new token goes on from the last one of its prompt, which V2PE has compressed: not from its length.

    Args:
        max_new_tokens: Tokens at most for a prompt.
        temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
        top_p: Draws from the smallest set of tokens whose probabilities sum to this (arXiv 1904.09751).
        top_k: Draws from the k likeliest tokens; 0: from all.
        head: Name of the language-model head.
    """

    def __init__(
        self,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        head: str = "lm",
    ) -> None:
        super().__init__()
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise ValueError(
                f"need temperature >= 0, 0 < top_p <= 1 and top_k >= 0, got {temperature}, {top_p} and {top_k}"
            )
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.head = head

    @torch.no_grad()
    def forward(
        self,
        model: MultimodalModel,
        prompts: PackedBatch,
        stop_ids: Collection[int],
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """New token ids for each segment, without the stop token.

        Args:
            model: The model.
            prompts: A pack with one prompt a segment.
            stop_ids: Tokens that end an answer.
            generator: Source of randomness on the model's device; None: torch's global one.
        """
        runtime = Runtime(cache=KVCache())
        answers: list[list[int]] = [[] for _ in range(prompts.num_segments)]
        active = list(range(prompts.num_segments))
        batch = prompts
        for step in range(self.max_new_tokens):
            tokens = self.pick(self._last_logits(model, batch, runtime), generator).tolist()
            going = []
            for place, segment in enumerate(active):
                if tokens[place] not in stop_ids:
                    answers[segment].append(tokens[place])
                    going.append(place)
            if not _any_rank(bool(going), prompts.input_ids.device) or step == self.max_new_tokens - 1:
                break
            # With several ranks all of them take the same number of steps: one that is done keeps a segment going,
            # whose tokens are not recorded.
            kept = going or [0]
            active = [active[place] for place in going]
            batch = self._next(model, batch, [tokens[place] for place in kept], kept, runtime)
        return answers

    def pick(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Next tokens `[S]` for logits `[S, vocab]`."""
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        if self.top_k:
            worst = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < worst, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            probs = ordered.softmax(-1)
            outside = probs.cumsum(-1) - probs >= self.top_p  # the token that crosses the limit stays in
            logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    def _last_logits(self, model: MultimodalModel, batch: PackedBatch, runtime: Runtime) -> Tensor:
        last = batch.layout.cu_seqlens[1:].long() - 1

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            logits: Tensor = heads[self.head](ModelState(hidden=state.hidden[last]), batch)
            return logits

        logits: Tensor = model(batch, runtime, read)
        return logits

    def _next(
        self, model: MultimodalModel, batch: PackedBatch, tokens: list[int], kept: list[int], runtime: Runtime
    ) -> PackedBatch:
        """The pack of one new token for each segment that goes on."""
        layout, device, count = batch.layout, batch.input_ids.device, len(tokens)
        keep = torch.tensor(kept, device=device)
        last_ticks = None
        if model.position is not None:
            last_ticks = model.position.ticks(layout)[layout.cu_seqlens[1:].long() - 1][keep]
        if kept != list(range(batch.num_segments)):
            assert runtime.cache is not None
            runtime.cache.select(kept)
        lengths = layout.cu_seqlens.diff().long() if layout.prefill_len is None else layout.prefill_len
        none = torch.full((count,), -1, device=device)
        return PackedBatch(
            input_ids=torch.tensor(tokens, device=device),
            layout=Layout(
                token_type=torch.full((count,), int(TokenType.TEXT), device=device),
                cu_seqlens=torch.arange(count + 1, dtype=torch.int32, device=device),
                max_seqlen=1,
                image_id=none,
                grid=torch.zeros(0, 3, dtype=torch.long, device=device),
                last_ticks=last_ticks,
                prefill_len=lengths[keep],
            ),
            visual_index=none,
            labels=torch.full((count,), IGNORE, device=device),
            segment_sample=batch.segment_sample[keep],
            segment_source=batch.segment_source[keep],
            keys=[batch.keys[place] for place in kept],
        )


def _any_rank(going: bool, device: torch.device) -> bool:
    """Whether any rank still has a segment to go on with."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return going
    flag = torch.tensor(int(going), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
