"""The objective: flow matching of actions."""

from __future__ import annotations

import torch

from mmcomponents.batch import Exact, LossOutput, PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.extras import Actions
from mmcomponents.objectives.base import Model, Objective
from pointing.noisy_actions import NoisyActions, actions_per_segment, noise, velocities


class FlowMatching(Objective):
    """Regresses the velocity from noise to the actions (Lipman et al. 2022, arXiv 2210.02747).

    Noise and time are keyed by the sample, see `PackedBatch.generators`: they are the same on any number of ranks and
    after a resumption. The loss is a mean over all actions of the step.

    Args:
        head: Name of the head.
    """

    denominator = "actions"

    def __init__(self, head: str = "actions") -> None:
        super().__init__()
        self.head = head
        self.needs_heads = (head,)

    def check(self, model: Composition) -> None:
        """Checks that embedder and head are made for actions of one width.

        Raises:
            WiringError: They are not.
        """
        embedder, head = model.embedder, model.heads[self.head]
        takes, gives = (getattr(part, "action_width", None) for part in (embedder, head))
        if takes is None or takes != gives:
            raise WiringError(
                f"{type(embedder).__name__} takes actions of {takes or 'no'} values and {type(head).__name__} gives"
                f" {gives or 'none'}: FlowMatching needs NoisyActionEmbedder and VelocityHead of one width"
            )

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the actions that are no padding."""
        return {"actions": float(actions_of(batch).mask.sum())}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the mean squared error of the step; zero without actions."""
        actions = actions_of(batch)
        values, mask = actions.values.tensor, actions.mask
        counts, generators = actions_per_segment(batch), batch.generators("flow")
        time = torch.tensor([draw.random() for draw in generators]).repeat_interleave(torch.tensor(counts))
        start = noise(generators, counts, values.shape[1]).to(values.device)
        time = time.to(values.device, torch.float32)
        noisy = start.lerp(values, time[:, None])
        found, _ = velocities(model, batch, NoisyActions(Exact(noisy), Exact(time)), self.head)
        errors = (found - (values - start)).square().mean(1)
        total = torch.where(mask, errors, 0.0).sum() / max(totals["actions"], 1.0)
        return LossOutput(total, {"loss": total.detach()})


def actions_of(batch: PackedBatch) -> Actions:
    """Returns the actions of a pack.

    Raises:
        ValueError: It has no such field.
    """
    actions = batch.extras.get("actions")
    if not isinstance(actions, Actions):
        raise ValueError("the packs have no actions: name a kind that gives them in data.kinds, such as PointingTask")
    return actions
