"""Samplers that answer with chunks of actions.

Reference code: RoboDita/Dita.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.component import Composition, NonFiniteError, WiringError
from mmcomponents.generation.base import Answer, AnswerKind, Context, Sampler
from mmcomponents.generation.past import Past
from mmcomponents.generation.prompt_parts import kept_positions
from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime


class ActionSampler(Sampler):
    """Answers each prompt with the actions of its ACTION positions, `[K, k]` in the units of the data.

    Args:
        head: Name of the head.
        past: Number of actions at the start of a chunk that lie before the present, and are left out: the number of
            observed frames minus 1.
    """

    answers: ClassVar[AnswerKind] = "values"
    method: ClassVar[str] = "predicted"
    """Method of the head that the sampler calls."""

    def __init__(self, head: str = "actions", past: int = 0) -> None:
        super().__init__()
        check_numbers(past=past)
        self.head, self.past = head, past

    def check(self, model: Composition) -> None:
        """Checks that the model has a head for actions.

        Raises:
            WiringError: It has not.
        """
        if self.head not in model.heads:
            found = ", ".join(model.heads) or "none"
            raise WiringError(f"{type(self).__name__} reads the head {self.head!r} and the model has {found}")
        if not callable(getattr(model.heads[self.head], self.method, None)):
            other = type(model.heads[self.head]).__name__
            raise WiringError(
                f"{type(self).__name__} calls {self.method} of the head {self.head!r}, which {other} does not have"
            )

    @torch.no_grad()
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """Answers each segment.

        Raises:
            WiringError: A prompt has no more ACTION positions than `past`.
            NonFiniteError: An action is NaN or infinite.
        """
        head: Any = model.heads[self.head]
        is_action = prompts.layout.token_type == TokenType.ACTION
        counts = torch.bincount(prompts.layout.segment_of_token()[is_action], minlength=prompts.num_segments).tolist()
        samples = prompts.segment_sample.tolist()  # -1 for the segment of a batch without prompts
        for key, sample, count in zip(prompts.keys, samples, counts, strict=True):
            if sample >= 0 and count <= self.past:
                raise WiringError(
                    f"the prompt {key} has {count} positions of type ACTION, and {type(self).__name__} leaves out"
                    f" {self.past}: the prompts of policies are those of ActionChunk"
                )
        values = head.ranges.restored(self.normalised(model, prompts, context).float())
        chunks = values.split(counts)
        wrong = [key for key, chunk in zip(prompts.keys, chunks, strict=True) if not bool(chunk.isfinite().all())]
        if wrong:
            raise NonFiniteError(
                f"actions of {', '.join(wrong[:8])} are NaN or infinite: the model's weights are damaged, or its"
                " activations exceed the range of its dtype"
            )
        return [Answer(values=chunk[self.past :]) for chunk in chunks]

    def normalised(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> Tensor:
        """Returns the actions of all prompts, normalised, `[A, k]`."""

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            found: Tensor = heads[self.head](state, prompts)
            return found

        found: Tensor = model(prompts, Runtime(needs=("hidden",)), read)
        return found


class DirectActions(ActionSampler):
    """Actions that a head predicts in one pass, as `ActionRegression` trains it.

    Args:
        head: See `ActionSampler`.
        past: See `ActionSampler`.
    """

    def check(self, model: Composition) -> None:
        """Checks that the head predicts actions.

        Raises:
            WiringError: It estimates noise.
        """
        super().check(model)
        if hasattr(model.heads[self.head], "noise_of"):
            kind = type(model.heads[self.head]).__name__
            raise WiringError(f"DirectActions takes what the head {self.head!r} predicts as actions: {kind} needs DDIM")


class DDIM(ActionSampler):
    """Actions by denoising random ones in a few steps (Song et al. 2021, arXiv 2010.02502), as Dita does.

    Text and images are processed once: attention is causal, so that noisy actions, which stand behind them, cannot
    change their keys and values, which are cached. With a head outside of the sequence, the backbone runs once.

    Args:
        steps: Number of denoising steps, `levels // steps` noise levels apart and ending at level 0. If it does not
            divide the schedule's levels, the first one is below the highest level, and random values are not what it
            expects.
        head: See `ActionSampler`.
        past: See `ActionSampler`.
        bound: Largest absolute value of the estimated actions in each step, normalised; None: they are not bounded.
    """

    method = "noise_of"

    def __init__(self, steps: int = 10, head: str = "actions", past: int = 0, bound: float | None = 1.0) -> None:
        super().__init__(head, past)
        check_sizes(steps=steps)
        if bound is not None:
            check_numbers(bound=bound)
        self.steps, self.bound = steps, bound

    def check(self, model: Composition) -> None:
        """Checks the head, and that its schedule has enough noise levels.

        Raises:
            WiringError: It does not fit.
        """
        super().check(model)
        levels = model.heads[self.head].schedule.levels
        if self.steps > levels:
            raise WiringError(f"DDIM has {self.steps} steps and the schedule of {self.head!r} {levels} noise levels")

    def normalised(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> Tensor:
        """Returns the actions of all prompts, normalised, `[A, k]`."""
        head: Any = model.heads[self.head]
        is_action = prompts.layout.token_type == TokenType.ACTION
        device = prompts.input_ids.device
        values = self._noise(prompts, is_action, head.action_width, context.generator)
        if head.in_context:
            return self._denoised_in_context(model, prompts, values)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            own: Any = heads[self.head]
            hidden, noisy = state.hidden[is_action], values
            for level, following in self._levels(own.schedule):
                levels = torch.full((len(noisy),), level, device=device)
                noise = own.noise_of(hidden, noisy, levels, prompts).float()
                noisy = own.schedule.ddim(noisy, noise, level, following, self.bound)
            return noisy

        found: Tensor = model(prompts, Runtime(needs=("hidden",)), read)
        return found

    def _noise(self, prompts: PackedBatch, is_action: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
        """Returns the normal numbers that denoising starts from, `[A, width]`."""
        device = prompts.input_ids.device
        if generator is not None:
            return torch.randn(int(is_action.sum()), width, generator=generator, device=device)
        segments = prompts.layout.segment_of_token()[is_action]
        counts = torch.bincount(segments, minlength=prompts.num_segments).tolist()
        every = zip(prompts.generators("actions"), counts, strict=True)
        drawn = [own.standard_normal((count, width)) for own, count in every]
        return torch.from_numpy(np.concatenate(drawn)).to(device, torch.float32)

    def _denoised_in_context(self, model: MultimodalModel, prompts: PackedBatch, noisy: Tensor) -> Tensor:
        head: Any = model.heads[self.head]
        kinds = prompts.layout.token_type
        after = (kinds == TokenType.TIME) | (kinds == TokenType.ACTION)
        past = self.prefilled(model, kept_positions(prompts, ~after, with_images=True))
        ends = prompts.layout.cu_seqlens[1:].long() - 1
        after[ends] = True  # a batch without prompts makes as many calls, as ranks that share a model have to
        suffix = prompts if past is None else kept_positions(prompts, after, with_images=False)
        times = int((kinds == TokenType.TIME).sum())
        is_action = suffix.layout.token_type == TokenType.ACTION
        lengths = [] if past is None else list(past.cache.lengths)
        for level, following in self._levels(head.schedule):
            inserted = {
                TokenType.ACTION: noisy,
                TokenType.TIME: torch.full((times,), level, device=noisy.device),
            }
            levels, now = torch.full((len(noisy),), level, device=noisy.device), noisy

            def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
                assert state.hidden is not None
                own: Any = heads[self.head]
                found: Tensor = own.noise_of(state.hidden[is_action], now, levels, suffix)  # noqa: B023
                return found

            batch, cache = suffix, None
            if past is not None:
                past.cache.lengths = lengths  # what the step before has added is overwritten
                batch, cache = past.follow(suffix), past.cache
            noise = model(batch, Runtime(cache, needs=("hidden",), inserted=inserted), read).float()
            noisy = head.schedule.ddim(noisy, noise, level, following, self.bound)
        return noisy

    def prefilled(self, model: MultimodalModel, prefix: PackedBatch) -> Past | None:
        """Returns the cached text and images of the prompts; None computes them again in each step."""
        past = Past()
        model(prefix, Runtime(past.cache, needs=("hidden",)))
        past.advance(model, prefix)
        return past

    def _levels(self, schedule: Any) -> list[tuple[int, int | None]]:
        """Returns each noise level with the one that follows; None after the last."""
        found: list[int] = schedule.descent(self.steps)
        return list(zip(found, [*found[1:], None], strict=True))
