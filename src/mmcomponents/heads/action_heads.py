"""Heads that read actions at the positions of type ACTION."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from mmcomponents.batch import ModelState, PackedBatch, TokenType
from mmcomponents.companions.action_statistics import ActionStatistics, StatisticsError
from mmcomponents.heads.base import Head
from mmcomponents.limits import check_sizes


class ActionHead(Head):
    """Linear map from the hidden states of ACTION positions to actions, without bias.

    Actions are normalised with the statistics of the data set, a file that travels with the model.

    Args:
        in_features: Width of the hidden states.
        vocab_size: Vocabulary size, which is not used.
        statistics: File of the action statistics, see `mmcomponents.companions.action_statistics`. On the meta device
            it may be missing.
        action_width: Number of values of an action, k.

    Raises:
        StatisticsError: The file is missing, or is of actions of another width.
    """

    files = ("statistics",)
    weight_methods: ClassVar[tuple[str, ...]] = ("predicted",)
    in_features: int

    def __init__(self, in_features: int, vocab_size: int | None, statistics: str, action_width: int = 7) -> None:
        super().__init__()
        check_sizes(in_features=in_features, action_width=action_width)
        self.in_features, self.action_width, self.statistics = in_features, action_width, str(statistics)
        self.proj = self._readout()
        is_meta = any(parameter.is_meta for parameter in self.proj.parameters())
        self._ranges = None if is_meta and not Path(self.statistics).exists() else self._read()
        self.init_weights()

    def _readout(self) -> nn.Module:
        return nn.Linear(self.in_features, self.action_width, bias=False)

    @property
    def ranges(self) -> ActionStatistics:
        """Statistics of the actions."""
        return self._read() if self._ranges is None else self._ranges

    @property
    def statistics_fingerprint(self) -> str | None:
        """Fingerprint of the statistics; None without a file."""
        return None if self._ranges is None else self._ranges.fingerprint

    def predicted(self, hidden: Tensor) -> Tensor:
        """Maps hidden states of ACTION positions `[A, d]` to normalised actions `[A, k]`."""
        found: Tensor = self.proj(hidden)
        return found

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Computes normalised actions `[A, k]`."""
        return self.predicted(action_states(state, batch))

    def flops(self, batch: PackedBatch) -> float:
        """Counts the map over the ACTION positions."""
        count = int((batch.layout.token_type == TokenType.ACTION).sum())
        return 2.0 * count * self.in_features * self.action_width

    def _read(self) -> ActionStatistics:
        found = ActionStatistics.read(self.statistics)
        if found.width != self.action_width:
            raise StatisticsError(
                f"{type(self).__name__} has action_width {self.action_width}, and {self.statistics} is of actions of"
                f" {found.width} values"
            )
        return found


def action_states(state: ModelState, batch: PackedBatch) -> Tensor:
    """Returns the hidden states of ACTION positions, `[A, d]`."""
    assert state.hidden is not None
    return state.hidden[batch.layout.token_type == TokenType.ACTION]
