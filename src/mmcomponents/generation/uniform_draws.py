"""Random numbers of sampled answers, which do not depend on how the answers are batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.draws import keyed


@dataclass(frozen=True)
class Draws:
    """One uniform number for each segment and step, so that draws do not depend on the other segments of the batch.

    Attributes:
        uniform: `[S, steps]` fp64 in [0, 1).
        greedy: `[S]` whether a segment is decoded greedily. None: none is.
    """

    uniform: Tensor
    greedy: Tensor | None = None

    @classmethod
    def of(cls, seed: int, samples: Sequence[tuple[str, int]], steps: int, greedy: Sequence[bool] = ()) -> Draws:
        """Draws numbers that depend only on (seed, key, sample, step).

        Args:
            seed: Seed of all draws.
            samples: (key of the question, number of the sample) of each segment.
            steps: Maximum number of tokens; a larger value does not change the first numbers.
            greedy: Whether each segment is decoded greedily. Empty: none is.
        """
        rows = [keyed(seed, key, sample).random(steps) for key, sample in samples]
        return cls(_stacked(rows, steps), torch.tensor(list(greedy)) if any(greedy) else None)

    @classmethod
    def of_prompts(cls, prompts: PackedBatch, steps: int, *words: object) -> Draws:
        """Draws numbers for each prompt of a pack, on its device, see `PackedBatch.generators`.

        Args:
            prompts: Pack with one prompt per segment.
            steps: Maximum number of tokens; a larger value does not change the first numbers.
            words: Name of the draw, and anything else that it depends on.
        """
        rows = [own.random(steps) for own in prompts.generators(*words)]
        return cls(_stacked(rows, steps)).to(prompts.input_ids.device)

    def to(self, device: torch.device) -> Draws:
        """Copies the numbers to a device."""
        return Draws(self.uniform.to(device), None if self.greedy is None else self.greedy.to(device))

    def pick(self, logits: Tensor, step: int, segments: Tensor) -> Tensor:
        """Samples tokens `[n]` by the inverse cumulative distribution, summed in fp64.

        Args:
            logits: `[n, vocab]`, minus infinity for excluded tokens.
            step: Index of the step.
            segments: `[n]` indices of the segments.
        """
        sums = logits.double().softmax(-1).cumsum_(-1)
        # The last sum is 1 except for rounding. `right=True` skips tokens of probability 0, which leave the sum as is.
        level = self.uniform[segments, step, None] * sums[:, -1:]
        tokens = torch.searchsorted(sums, level, right=True)[:, 0]
        if self.greedy is not None:
            tokens = torch.where(self.greedy[segments], logits.argmax(-1), tokens)
        return tokens


def _stacked(rows: Sequence[NDArray[np.float64]], steps: int) -> Tensor:
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, steps)))
