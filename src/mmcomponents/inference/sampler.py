"""Autoregressive decoding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Generator

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, Runtime
from mmcomponents.component import Component
from mmcomponents.inference.past import Past
from mmcomponents.model import MultimodalModel


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
        temperature: 0 takes the likeliest token; from 0.0001 on, logits are divided by it and a token is drawn.
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
        if not (temperature == 0 or 1e-4 <= temperature < float("inf")) or not 0 < top_p <= 1 or top_k < 0:
            raise ValueError(
                "need temperature >= 0 (finite, and 0 or at least 0.0001), "
                f"0 < top_p <= 1 and top_k >= 0, got {temperature}, {top_p} and {top_k}"
            )
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.head = head

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
        answers: list[list[int]] = [[] for _ in range(prompts.num_segments)]
        for new in self.steps(model, prompts, stop_ids, generator):
            for segment, token in new.items():
                answers[segment].append(token)
        return answers

    @torch.no_grad()
    def steps(
        self,
        model: MultimodalModel,
        prompts: PackedBatch,
        stop_ids: Collection[int],
        generator: torch.Generator | None = None,
        past: Past | None = None,
        ended: Callable[[int], bool] | None = None,
    ) -> Generator[dict[int, int], None, None]:
        """Decodes step by step.

        Args:
            model: The model.
            prompts: A pack with one prompt a segment.
            stop_ids: Tokens that end an answer.
            generator: Source of randomness on the model's device; None: torch's global one.
            past: What was read before; the prompts follow it, and it goes on to what is read here.
            ended: Asked after each step, for each segment, whether its answer is complete without a stop token.

        Yields:
            The new token of each segment that has one; those that stop are left out.
        """
        past = past or Past()
        active = list(range(prompts.num_segments))
        batch = past.follow(prompts)
        for step in range(self.max_new_tokens):
            tokens = self.pick(self._last_logits(model, batch, past), generator).tolist()
            past.advance(model, batch)
            new = {s: token for s, token in zip(active, tokens, strict=False) if token not in stop_ids}
            yield new
            going = [place for place, s in enumerate(active) if s in new and not (ended is not None and ended(s))]
            if not _any_rank(bool(going), prompts.input_ids.device) or step == self.max_new_tokens - 1:
                break
            # With several ranks all of them take the same number of steps: one that is done keeps a segment going,
            # whose tokens are not recorded.
            kept = going or [0]
            active = [active[place] for place in going]
            batch = past.one_more(batch, [tokens[place] for place in kept], kept)

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

    def _last_logits(self, model: MultimodalModel, batch: PackedBatch, past: Past) -> Tensor:
        last = batch.layout.cu_seqlens[1:].long() - 1

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            logits: Tensor = heads[self.head](ModelState(hidden=state.hidden[last]), batch)
            return logits

        logits: Tensor = model(batch, Runtime(cache=past.cache), read)
        return logits


def _any_rank(going: bool, device: torch.device) -> bool:
    """Whether any rank still has a segment to go on with."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return going
    flag = torch.tensor(int(going), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
