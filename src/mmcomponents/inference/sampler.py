"""Autoregressive decoding."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, Runtime
from mmcomponents.component import Component
from mmcomponents.inference.past import Past
from mmcomponents.model import MultimodalModel

_FULL = 0.6
"""Share of forked segments that still go on, above which those that have ended stay in the batch."""


def keyed(*words: object) -> np.random.Generator:
    """Random numbers that depend on these words alone, on every machine."""
    digest = hashlib.sha256("\0".join(map(repr, words)).encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class Draws:
    """One uniform number for each segment and step, so that a draw depends on nothing that is decoded beside it.

    Attributes:
        uniform: `[S, steps]` fp64 in [0, 1).
        greedy: `[S]` segments that take the likeliest token all the same; None: none.
    """

    uniform: Tensor
    greedy: Tensor | None = None

    @classmethod
    def of(cls, seed: int, samples: Sequence[tuple[str, int]], steps: int, greedy: Sequence[bool] = ()) -> Draws:
        """Numbers that depend on (seed, key, sample, step) alone.

        Args:
            seed: Of all draws.
            samples: (key of the question, number of the sample) of each segment.
            steps: Tokens at most; more of them leave the first numbers as they are.
            greedy: For each segment whether it is greedy; empty: none is.
        """
        rows = [keyed(seed, key, sample).random(steps) for key, sample in samples]
        uniform = torch.from_numpy(np.stack(rows) if rows else np.zeros((0, steps)))
        return cls(uniform, torch.tensor(list(greedy)) if any(greedy) else None)

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        return Draws(self.uniform.to(device), None if self.greedy is None else self.greedy.to(device))

    def pick(self, logits: Tensor, step: int, segments: Tensor) -> Tensor:
        """Tokens `[n]` by the inverse of the distribution function, summed in fp64.

        Args:
            logits: `[n, vocab]`, minus infinity where a token is out of question.
            step: Number of the step.
            segments: `[n]` which segments these are.
        """
        sums = logits.double().softmax(-1).cumsum_(-1)
        # The last sum is 1 but for rounding. A token of no probability adds nothing to it, and `right` passes over it.
        level = self.uniform[segments, step, None] * sums[:, -1:]
        tokens = torch.searchsorted(sums, level, right=True)[:, 0]
        if self.greedy is not None:
            tokens = torch.where(self.greedy[segments], logits.argmax(-1), tokens)
        return tokens


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
        draws: Draws | None = None,
        repeats: Sequence[int] | None = None,
    ) -> Generator[dict[int, int], None, None]:
        """Decodes step by step.

        Args:
            model: The model.
            prompts: A pack with one prompt a segment.
            stop_ids: Tokens that end an answer.
            generator: Source of randomness on the model's device; None: torch's global one.
            past: What was read before; the prompts follow it, and it goes on to what is read here.
            ended: Asked after each step, for each segment, whether its answer is complete without a stop token.
            draws: Random numbers of each answer, which then needs no generator; on the model's device.
            repeats: Answers of each prompt, which is read once for all of them; None: one of each. Segments are then
                the answers, those of the first prompt first.

        Yields:
            The new token of each segment that has one; those that stop are left out.
        """
        past = past or Past()
        rows = list(range(prompts.num_segments))  # of the batch, one for each answer that goes on
        if repeats is not None:
            rows = [row for row, count in zip(rows, repeats, strict=True) for _ in range(count)]
        active = list(range(len(rows)))  # the answer of each row; -1: none any more
        batch = past.follow(prompts)
        for step in range(self.max_new_tokens):
            logits = self._last_logits(model, batch, past)
            if step == 0 and repeats is not None:
                logits = logits[torch.tensor(rows, device=logits.device)]
            tokens = self._choose(logits, generator, draws, step, active).tolist()
            past.advance(model, batch)
            new = {s: token for s, token in zip(active, tokens, strict=True) if s >= 0 and token not in stop_ids}
            yield new
            going = [place for place, s in enumerate(active) if s in new and not (ended is not None and ended(s))]
            if not _any_rank(bool(going), prompts.input_ids.device) or step == self.max_new_tokens - 1:
                break
            # With several ranks all of them take the same number of steps: one that is done keeps a segment going,
            # whose tokens are not recorded.
            kept = going or [0]
            if repeats is not None and len(kept) > _FULL * len(active):
                kept = list(range(len(active)))  # a few that go on in vain cost less than moving the cache
            going_on = set(going)
            active = [active[place] if place in going_on else -1 for place in kept]
            batch = past.one_more(batch, [tokens[place] for place in kept], [rows[place] for place in kept])
            rows = list(range(len(kept)))

    def pick(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Next tokens `[S]` for logits `[S, vocab]`."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(self._allowed(logits).softmax(-1), 1, generator=generator)[:, 0]

    def _choose(
        self, logits: Tensor, generator: torch.Generator | None, draws: Draws | None, step: int, active: list[int]
    ) -> Tensor:
        if draws is None or self.temperature == 0:
            return self.pick(logits, generator)
        segments = torch.tensor(active, device=logits.device)  # -1: any will do, its token does not count
        return draws.pick(self._allowed(logits), step, segments)

    def _allowed(self, logits: Tensor) -> Tensor:
        """Logits over the temperature, minus infinity where top-k and top-p leave a token out."""
        logits = logits.float() / self.temperature
        if self.top_k:
            worst = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < worst, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            probs = ordered.softmax(-1)
            outside = probs.cumsum(-1) - probs >= self.top_p  # the token that crosses the limit stays in
            logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
        return logits

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
