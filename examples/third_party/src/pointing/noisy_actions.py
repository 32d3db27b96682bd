"""Noisy actions: a field that objective and sampler add to a pack, and the model's velocities for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcomponents.batch import Exact, ModelState, PackedBatch, TokenType
from mmcomponents.extras import Extra
from mmcomponents.nn.runtime import Runtime

NOISY = "noisy_actions"
"""Name of the field in `PackedBatch.extras`."""


@dataclass
class NoisyActions(Extra):
    """Actions on the way from noise (time 0) to the data (time 1), one for each position of type ACTION.

    Attributes:
        values: `Exact` of `[A, k]` fp32.
        time: `Exact` of `[A]` fp32.
    """

    values: Exact
    time: Exact


def actions_per_segment(batch: PackedBatch) -> list[int]:
    """Counts the positions of type ACTION of each segment."""
    of_actions = batch.layout.segment_of_token()[batch.layout.token_type == TokenType.ACTION]
    counts: list[int] = torch.bincount(of_actions, minlength=batch.num_segments).tolist()
    return counts


def noise(generators: list[np.random.Generator], counts: list[int], width: int) -> Tensor:
    """Draws `[A, width]` normal values, those of each segment from its own generator."""
    drawn = [each.standard_normal((count, width)) for each, count in zip(generators, counts, strict=True)]
    return torch.from_numpy(np.concatenate(drawn)).float()


def velocities(
    model: Callable[..., Any], batch: PackedBatch, noisy: NoisyActions, head: str, runtime: Runtime | None = None
) -> tuple[Tensor, Tensor | None]:
    """Returns the velocities `[A, k]` of noisy actions, and the visual tokens, for a further call on the same images.

    The head is used in a function that the model calls: sharded weights are complete only there.
    """
    pack = replace(batch, extras={**batch.extras, NOISY: noisy})
    is_action = batch.layout.token_type == TokenType.ACTION

    def read(heads: nn.ModuleDict, state: ModelState) -> tuple[Tensor, Tensor | None]:
        return heads[head](state, pack)[is_action], state.visual_tokens

    found: tuple[Tensor, Tensor | None] = model(pack, runtime, read)
    return found
