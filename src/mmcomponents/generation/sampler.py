"""Autoregressive decoding of packs of prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation.base import Answer, Context
from mmcomponents.generation.base import Sampler as Sampler
from mmcomponents.generation.past import Past
from mmcomponents.generation.uniform_draws import Draws
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime

_FULL = 0.6
"""Share of unfinished forked segments above which finished ones stay in the batch."""

_NOT_FINITE = -1
"""Stands for the next token of a segment whose logits are not finite."""

_SHOWN = 8
"""Maximum number of prompts in an error."""

_ENDED, _GOING, _FAILED = range(3)
"""State of decoding on a rank; the largest one over all ranks determines what all do."""


class Autoregressive(Sampler):
    """Autoregressive decoding with a key-value cache, for all prompts of a pack at the same time.

    The position of a new token continues from the last position of its prompt, not from the prompt's length: V2PE
    compresses positions.

    Args:
        max_new_tokens: Maximum number of tokens of an answer.
        temperature: 0 selects the most likely token. From 0.0001 on, logits are divided by it and a token is sampled.
        top_p: Samples from the smallest set of tokens whose probabilities sum to this value (arXiv 1904.09751).
        top_k: Samples from the k most likely tokens. 0: from all.
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

    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """See the base class.

        Raises:
            NonFiniteError: The logits of a segment are NaN or infinite; raised on all ranks in the same step.
        """
        answers: list[list[int]] = [[] for _ in range(prompts.num_segments)]
        draws = self.own_draws(prompts, context)
        for new in self.steps(model, prompts, context.stop_ids, context.generator, draws=draws):
            for segment, token in new.items():
                answers[segment].append(token)
        tokenizer = context.tokenizer
        return [Answer(None if tokenizer is None else str(tokenizer.decode(ids)), ids) for ids in answers]

    def own_draws(self, prompts: PackedBatch, context: Context) -> Draws | None:
        """Returns the draws of each prompt, where the context has no generator; None where nothing else is drawn."""
        own = self.temperature > 0 and context.generator is None
        return Draws.of_prompts(prompts, self.max_new_tokens, "text") if own else None

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
            model: Model in evaluation mode.
            prompts: Pack with one prompt per segment.
            stop_ids: Tokens that end an answer.
            generator: Random generator on the model's device. None: torch's global generator.
            past: State of the tokens before the prompts; updated in place.
            ended: Called after each step with each segment; returns whether its answer is complete without a stop
                token.
            draws: Random numbers of each answer, on the model's device; they replace the generator.
            repeats: Number of answers of each prompt, which is prefilled once for all of them. None: one answer each.
                Segments are then the answers, those of the first prompt first.

        Yields:
            The new token of each segment that has one; segments that stop are left out.

        Raises:
            NonFiniteError: The logits of a segment are NaN or infinite; raised on all ranks in the same step.
        """
        past = past or Past()
        rows = list(range(prompts.num_segments))  # segment of the batch of each unfinished answer
        if repeats is not None:
            rows = [row for row, count in zip(rows, repeats, strict=True) for _ in range(count)]
        active = list(range(len(rows)))  # answer of each row; -1: finished
        names = [prompts.keys[row] or f"prompt {row + 1}" for row in rows]
        batch = past.follow(prompts)
        for step in range(self.max_new_tokens):
            logits = self._last_logits(model, batch, past)
            if step == 0 and repeats is not None:
                logits = logits[torch.tensor(rows, device=logits.device)]
            tokens = self._choose(logits, generator, draws, step, active).tolist()
            # Checked here, where the tokens have been copied to the host: no further synchronisation with the device.
            failed = [names[s] for s, token in zip(active, tokens, strict=True) if s >= 0 and token == _NOT_FINITE]
            if failed and not _has_ranks():
                raise _not_finite(failed, step)
            past.advance(model, batch)
            new = {
                s: token
                for s, token in zip(active, tokens, strict=True)
                if s >= 0 and token != _NOT_FINITE and token not in stop_ids
            }
            yield new
            going = [place for place, s in enumerate(active) if s in new and not (ended is not None and ended(s))]
            state = _over_ranks(_FAILED if failed else _GOING if going else _ENDED, prompts.input_ids.device)
            if state == _FAILED:
                raise _not_finite(_of_all_ranks(failed), step)
            if state == _ENDED or step == self.max_new_tokens - 1:
                break
            # All ranks take the same number of steps: a finished rank continues one segment without recording tokens.
            kept = going or [0]
            if repeats is not None and len(kept) > _FULL * len(active):
                kept = list(range(len(active)))  # decoding a few finished segments costs less than moving the cache
            going_on = set(going)
            active = [active[place] if place in going_on else -1 for place in kept]
            batch = past.one_more(batch, [tokens[place] for place in kept], [rows[place] for place in kept])
            rows = list(range(len(kept)))

    def pick(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Selects the next tokens `[S]` from logits `[S, vocab]`; -1 for a segment whose logits are not finite.

        Single logits may be minus infinity, which excludes their tokens.
        """
        return self._choose(logits, generator, None, 0, [])

    def _choose(
        self, logits: Tensor, generator: torch.Generator | None, draws: Draws | None, step: int, active: list[int]
    ) -> Tensor:
        if self.temperature:
            logits = self._allowed(logits)
        best = logits.max(-1)  # NaN if any logit is, minus infinity only if all are
        usable = best.values.isfinite()
        if not self.temperature:
            return best.indices.where(usable, _NOT_FINITE)
        logits = logits.where(usable[:, None], 0.0)  # drawing from NaN is an error, on CUDA one that ends the process
        if draws is None:
            tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        else:
            segments = torch.tensor(active, device=logits.device)  # -1 indexes any segment: its token is not used
            tokens = draws.pick(logits, step, segments)
        return tokens.where(usable, _NOT_FINITE)

    def _allowed(self, logits: Tensor) -> Tensor:
        """Divides logits by the temperature and sets those that top-k and top-p exclude to minus infinity."""
        logits = logits.float() / self.temperature
        if self.top_k:
            worst = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < worst, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            probs = ordered.softmax(-1)
            outside = probs.cumsum(-1) - probs >= self.top_p  # the token that crosses the limit is kept
            logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
        return logits

    def _last_logits(self, model: MultimodalModel, batch: PackedBatch, past: Past) -> Tensor:
        last = batch.layout.cu_seqlens[1:].long() - 1

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            if self.head not in heads:
                found = ", ".join(heads) or "none"
                raise WiringError(f"{type(self).__name__} reads the head {self.head!r} and the model has {found}")
            assert state.hidden is not None
            logits: Tensor = heads[self.head](ModelState(hidden=state.hidden[last]), batch)
            return logits

        logits: Tensor = model(batch, Runtime(cache=past.cache), read)
        return logits


def _has_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _over_ranks(state: int, device: torch.device) -> int:
    """Returns the largest state of all ranks."""
    if not _has_ranks():
        return state
    value = torch.tensor(state, device=device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return int(value)


def _of_all_ranks(names: list[str]) -> list[str]:
    """Returns the names that each rank gives, together."""
    gathered: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, names)
    return [name for own in gathered for name in own]


def _not_finite(failed: list[str], step: int) -> NonFiniteError:
    """Returns the error about the prompts whose logits are not finite."""
    names = list(dict.fromkeys(failed))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return NonFiniteError(
        f"the logits of {', '.join(names[:_SHOWN])}{more} are NaN or infinite at new token"
        f" {step + 1}: the model's weights are damaged, or its activations exceed the range of its dtype"
    )
