"""The sampler: from noise to actions in a few steps."""

from __future__ import annotations

from typing import cast

import torch

from mmcomponents.batch import Exact, PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.generation import Answer, Context, Sampler
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime
from pointing.model_parts import VelocityHead
from pointing.noisy_actions import NoisyActions, actions_per_segment, noise, velocities


class EulerSampler(Sampler):
    """Answers each prompt with `[A, k]` actions, one for each of its ACTION positions.

    It integrates the velocities from noise by Euler's method. The noise is keyed by the sample: an answer does not
    depend on the other prompts of its pack, nor on the context's generator.

    Args:
        num_steps: Number of steps.
        head: Name of the head.
        seed: Seed of the noise.

    Raises:
        ValueError: There is no step.
    """

    answers = "values"

    def __init__(self, num_steps: int = 8, head: str = "actions", seed: int = 0) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.num_steps, self.head, self.seed = num_steps, head, seed

    def check(self, model: Composition) -> None:
        """Checks that the model has the head.

        Raises:
            WiringError: It has not.
        """
        if self.head not in model.heads or not hasattr(model.heads[self.head], "action_width"):
            found = ", ".join(f"{name} ({type(head).__name__})" for name, head in model.heads.items())
            raise WiringError(f"EulerSampler reads {self.head!r}, a VelocityHead, and the model's heads are {found}")

    @torch.no_grad()
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """See the base class. The images are encoded in the first step only."""
        counts, width = actions_per_segment(prompts), cast(VelocityHead, model.heads[self.head]).action_width
        actions = noise(prompts.generators("start", self.seed), counts, width).to(prompts.input_ids.device)
        runtime = Runtime()
        for step in range(self.num_steps):
            time = actions.new_full((len(actions),), step / self.num_steps)
            noisy = NoisyActions(Exact(actions), Exact(time))
            velocity, visual_tokens = velocities(model, prompts, noisy, self.head, runtime)
            actions = actions + velocity.float() / self.num_steps
            runtime = Runtime(visual_tokens=visual_tokens)
        return [Answer(values=values) for values in actions.split(counts)]
