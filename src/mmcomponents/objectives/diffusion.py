"""Objectives of policies: noise in actions, or the actions themselves.

Reference code: RoboDita/Dita.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, TokenType
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.component import Composition, WiringError
from mmcomponents.extras import Actions
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives.base import Model, Objective, check_head

FIELD = "actions"
"""Name of the true actions among the extras of a pack."""


class Schedule(Protocol):
    """Interface of noise schedules; see `mmcomponents.heads.NoiseSchedule`."""

    levels: int

    def add_noise(self, signal: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Returns noisy values.

        Args:
            signal: `[n, k]`.
            noise: `[n, k]`, of variance 1.
            level: `[n]` int64 noise level of each row.

        Returns:
            `[n, k]`.
        """
        ...

    def target(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Returns what a head has to predict.

        Args:
            signal: `[n, k]`.
            noise: `[n, k]` that was added.

        Returns:
            `[n, k]`.
        """
        ...


class NoiseHead(Protocol):
    """Interface of heads that estimate noise; see `mmcomponents.heads.DenoisingHead`."""

    in_context: bool
    schedule: Schedule
    ranges: ActionStatistics

    def noise_of(self, hidden: Tensor, noisy: Tensor, level: Tensor, batch: PackedBatch) -> Tensor:
        """Estimates the noise in actions.

        Args:
            hidden: `[A, d]` hidden states of the positions of the actions.
            noisy: `[A, k]` actions with noise.
            level: `[A]` int64 noise level of each action.
            batch: The pack.

        Returns:
            `[A, k]`.
        """
        ...


class ActionObjective(Objective):
    """Mean squared error over actions with a target; a subclass says of what.

    All sums are divided by the number of actions of the step. Actions past the end of an episode have no target.

    Args:
        head: Name of the head.
    """

    needs = ("hidden",)
    denominator = "actions"
    validated = MappingProxyType({"error": "actions"})

    def __init__(self, head: str = "actions") -> None:
        super().__init__()
        self.head, self.needs_heads = head, (head,)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the actions with a target.

        Raises:
            WiringError: The pack has no actions, or not one for each ACTION position.
        """
        count = float(_actions(batch).mask.sum())
        return {"actions": count, "targets": count}

    def _loss(self, error: Tensor, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Returns the share of the pack, of squared errors `[A, k]`."""
        masked = torch.where(_actions(batch).mask[:, None], error, torch.zeros_like(error))
        total = masked.mean(-1).sum() / max(totals["actions"], 1.0)
        return LossOutput(total, {"loss": total.detach(), "error": total.detach()})


class Diffusion(ActionObjective):
    """Error of what a head predicts of noisy actions (Ho et al. 2020, arXiv 2006.11239, equation 14), as in Dita.

    That is the noise, or the actions themselves, as the head's schedule says.

    All actions of a segment have one noise level. Levels and noise depend on the seed, the epoch, the sample and its
    copy: they are equal on any number of ranks and after a resumption, and new in each epoch.

    Args:
        head: Name of the head, a `DenoisingHead`.
    """

    def check(self, model: Composition) -> None:
        """Checks that the head estimates noise.

        Raises:
            WiringError: It does not.
        """
        check_head(self, model, self.head, "noise_of", "DenoisingHead")

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step."""
        head = cast(NoiseHead, model.heads[self.head])
        values = head.ranges.normalised(_actions(batch).values.tensor)
        noise, level = self._draws(batch, values, head.schedule.levels)
        segment = _action_segments(batch)
        noisy = head.schedule.add_noise(values, noise, level[segment])
        inserted: dict[TokenType, Tensor] = {}
        if head.in_context:
            inserted = {TokenType.ACTION: noisy, TokenType.TIME: level[_segments_of(batch, TokenType.TIME)]}

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.hidden is not None
            hidden = state.hidden[batch.layout.token_type == TokenType.ACTION]
            return cast(NoiseHead, heads[self.head]).noise_of(hidden, noisy, level[segment], batch)

        found: Tensor = model(batch, Runtime(needs=self.needs, inserted=inserted), read=read)
        return self._loss(_squared(found, head.schedule.target(values, noise)), batch, totals)

    def _draws(self, batch: PackedBatch, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Returns noise `[A, k]` and the noise level of each segment `[S]`."""
        counts = torch.bincount(_action_segments(batch), minlength=batch.num_segments).tolist()
        width, level, noise = values.shape[1], list[int](), [np.zeros((0, values.shape[1]), np.float32)]
        for generator, count in zip(batch.generators("diffusion"), counts, strict=True):
            level.append(int(generator.integers(levels)))
            noise.append(generator.standard_normal((count, width), dtype=np.float32))
        drawn = torch.from_numpy(np.concatenate(noise)).to(values.device, values.dtype)
        return drawn, torch.tensor(level, device=values.device)


class ActionRegression(ActionObjective):
    """Error of actions that a head predicts directly, without noise: the mean of all demonstrations.

    Args:
        head: Name of the head, an `ActionHead`.
    """

    def check(self, model: Composition) -> None:
        """Checks that the head predicts actions.

        Raises:
            WiringError: It does not, or it estimates noise.
        """
        check_head(self, model, self.head, "predicted", "ActionHead")
        if hasattr(model.heads[self.head], "noise_of"):
            kind = type(model.heads[self.head]).__name__
            raise WiringError(f"ActionRegression trains the head {self.head!r} without noise: {kind} needs Diffusion")

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step."""
        head: Any = model.heads[self.head]
        values = head.ranges.normalised(_actions(batch).values.tensor)

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            found: Tensor = heads[self.head](state, batch)
            return found

        found: Tensor = model(batch, Runtime(needs=self.needs), read=read)
        return self._loss(_squared(found, values), batch, totals)


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Returns squared differences in fp32, or in fp64 if a value is."""
    return (found.to(torch.promote_types(found.dtype, torch.float32)) - wanted).square()


def _segments_of(batch: PackedBatch, kind: TokenType) -> Tensor:
    return batch.layout.segment_of_token()[batch.layout.token_type == kind]


def _action_segments(batch: PackedBatch) -> Tensor:
    return _segments_of(batch, TokenType.ACTION)


def _actions(batch: PackedBatch) -> Actions:
    actions = batch.extras.get(FIELD)
    if not isinstance(actions, Actions):
        raise WiringError(
            "objectives of policies need true actions, and the packs have none: name the record kind in data.kinds"
            " (ActionChunk)"
        )
    places = int((batch.layout.token_type == TokenType.ACTION).sum())
    if places != len(actions.mask):
        raise WiringError(f"a pack has {places} positions of type ACTION and {len(actions.mask)} actions")
    return actions
