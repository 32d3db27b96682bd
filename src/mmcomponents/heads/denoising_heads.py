"""Heads that estimate the noise in actions: within the sequence, or outside of it as in Dita's ablation.

Reference code: RoboDita/Dita.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad, silu

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.heads.action_heads import ActionHead, action_states
from mmcomponents.heads.noise_schedule import NoiseSchedule
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.sine_positions import time_embedding


class DenoisingHead(ActionHead):
    """In-context denoising of Dita (arXiv 2503.19757, section 3.2): noisy actions are tokens of the sequence.

    The noise in an action is a linear map of the hidden state at its position. The schedule belongs to the head, since
    its weights are of use with this schedule only.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Vocabulary size, which is not used.
        statistics: File of the action statistics, see `ActionHead`.
        schedule: Factory of the noise schedule.
        action_width: Number of values of an action, k.
    """

    in_context: ClassVar[bool] = True
    """Whether noise levels and noisy actions are in the sequence; if not, the backbone runs once for all steps."""

    weight_methods: ClassVar[tuple[str, ...]] = ("predicted", "noise_of")

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        statistics: str,
        schedule: Callable[[], NoiseSchedule],
        action_width: int = 7,
    ) -> None:
        super().__init__(in_features, vocab_size, statistics, action_width)
        self.schedule = schedule()

    def noise_of(self, hidden: Tensor, noisy: Tensor, level: Tensor, batch: PackedBatch) -> Tensor:
        """Estimates the noise in actions.

        Args:
            hidden: `[A, d]` hidden states of the ACTION positions.
            noisy: `[A, k]` noisy actions, normalised.
            level: `[A]` noise level of each action.
            batch: The pack.

        Returns:
            `[A, k]`.
        """
        return self.predicted(hidden)


class AdaptiveBlock(nn.Module):
    """Residual block of two linear maps after a norm whose scale and shift are maps of a condition.

    Args:
        width: Width of values and condition.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(width, width)
        self.beta = nn.Linear(width, width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Adds the output of the feed-forward block, whose norm has scale and shift of the condition.

        Args:
            x: `[n, width]`.
            condition: `[n, width]`.

        Returns:
            `[n, width]`.
        """
        normed = layer_norm(x, x.shape[-1:])
        scaled = (1 + self.gamma(condition)) * normed + self.beta(condition)
        out: Tensor = x + self.linear2(silu(self.linear1(scaled)))
        return out


class DenoisingMLP(nn.Module):
    """Stack of `AdaptiveBlock` over values that are padded with zeros, and a map to the output.

    Args:
        width: Width of the hidden states and of all blocks.
        out_features: Width of the output.
        num_blocks: Number of blocks.
    """

    def __init__(self, width: int, out_features: int, num_blocks: int) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(num_blocks))
        self.out = nn.Linear(width, out_features)

    def forward(self, values: Tensor, hidden: Tensor, level: Tensor) -> Tensor:
        """Estimates the noise in values.

        Args:
            values: `[n, v]`, v at most `width`.
            hidden: `[n, width]` hidden states.
            level: `[n]` int64 noise levels.

        Returns:
            `[n, out_features]`.
        """
        x = pad(values, (0, self.width - values.shape[-1])).to(hidden.dtype)
        condition = hidden + time_embedding(level, self.width).to(hidden.dtype)
        for block in self.blocks:
            x = block(x, condition)
        out: Tensor = self.out(x)
        return out


class _OutsideHead(DenoisingHead):
    """Denoising by an MLP that is conditioned on hidden states; the sequence has no noisy actions."""

    in_context = False

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        statistics: str,
        schedule: Callable[[], NoiseSchedule],
        action_width: int = 7,
        num_blocks: int = 3,
        horizon: int = 1,
    ) -> None:
        check_sizes(MAX_LAYERS, num_blocks=num_blocks, horizon=horizon)
        if horizon * action_width > in_features:
            raise WiringError(
                f"{horizon} x {action_width} noisy values do not fit the width {in_features} of {type(self).__name__}"
            )
        self._blocks, self._horizon = num_blocks, horizon
        super().__init__(in_features, vocab_size, statistics, schedule, action_width)
        self.num_blocks = num_blocks

    def _readout(self) -> nn.Module:
        return DenoisingMLP(self.in_features, self._horizon * self.action_width, self._blocks)

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Estimates the noise in actions that are zero, at noise level 0: `[A, k]`."""
        hidden = action_states(state, batch)
        zeros = torch.zeros(len(hidden), self.action_width, device=hidden.device, dtype=hidden.dtype)
        return self.noise_of(hidden, zeros, torch.zeros_like(zeros[:, 0], dtype=torch.int64), batch)

    @abstractmethod
    def noise_of(self, hidden: Tensor, noisy: Tensor, level: Tensor, batch: PackedBatch) -> Tensor:
        """See `DenoisingHead.noise_of`."""

    def flops(self, batch: PackedBatch) -> float:
        """Counts the blocks over one evaluation."""
        count = int((batch.layout.token_type == TokenType.ACTION).sum()) / self._horizon
        width, out = self.in_features, self._horizon * self.action_width
        return 2.0 * count * (self._blocks * 4 * width * width + width * out)


class TokenDenoisingHead(_OutsideHead):
    """Diffusion head of each action token (arXiv 2503.19757, section 4.5, as in `use_action_head_diff: 2`).

    An MLP denoises each action on its own, with the hidden state at its position as condition.

    Args:
        in_features: See `DenoisingHead`.
        vocab_size: See `DenoisingHead`.
        statistics: See `DenoisingHead`.
        schedule: See `DenoisingHead`.
        action_width: See `DenoisingHead`.
        num_blocks: Number of blocks of the MLP.
    """

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        statistics: str,
        schedule: Callable[[], NoiseSchedule],
        action_width: int = 7,
        num_blocks: int = 3,
    ) -> None:
        super().__init__(in_features, vocab_size, statistics, schedule, action_width, num_blocks)

    def noise_of(self, hidden: Tensor, noisy: Tensor, level: Tensor, batch: PackedBatch) -> Tensor:
        """See `DenoisingHead.noise_of`."""
        found: Tensor = self.proj(noisy, hidden, level)
        return found


class PooledDenoisingHead(_OutsideHead):
    """Diffusion head of a chunk, as Octo has it (`use_action_head_diff: 5` of Dita's released code).

    An MLP denoises all actions of a chunk as one vector, with the mean of their hidden states as condition.

    Args:
        in_features: See `DenoisingHead`.
        vocab_size: See `DenoisingHead`.
        statistics: See `DenoisingHead`.
        schedule: See `DenoisingHead`.
        action_width: See `DenoisingHead`.
        num_blocks: Number of blocks of the MLP.
        horizon: Number of actions of a chunk.
    """

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None,
        statistics: str,
        schedule: Callable[[], NoiseSchedule],
        action_width: int = 7,
        num_blocks: int = 3,
        horizon: int = 16,
    ) -> None:
        super().__init__(in_features, vocab_size, statistics, schedule, action_width, num_blocks, horizon)
        self.horizon = horizon

    def noise_of(self, hidden: Tensor, noisy: Tensor, level: Tensor, batch: PackedBatch) -> Tensor:
        """See `DenoisingHead.noise_of`.

        Raises:
            WiringError: The actions of a segment are not chunks of the horizon.
        """
        layout = batch.layout
        is_action = layout.token_type == TokenType.ACTION
        counts = torch.bincount(layout.segment_of_token()[is_action], minlength=layout.num_segments)
        wrong = [count for count in counts.tolist() if count % self.horizon]
        if wrong:
            raise WiringError(f"{type(self).__name__} has horizon {self.horizon}, and a segment has {wrong[0]} actions")
        pooled = hidden.unflatten(0, (-1, self.horizon)).mean(1)
        chunks = noisy.reshape(-1, self.horizon * self.action_width)
        found: Tensor = self.proj(chunks, pooled, level[:: self.horizon])
        return found.reshape(-1, self.action_width)
