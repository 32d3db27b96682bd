"""Mixed preference optimization."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mmcomponents.batch import LossOutput, PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.objectives.answers import answer_logps, pairs_of, target_counts
from mmcomponents.objectives.base import Model, Objective
from mmcomponents.objectives.modes import evaluating, is_random
from mmcomponents.objectives.references import Reference, StoredReference

logger = logging.getLogger(__name__)

_FAR = 0.01
"""How far the loss of a first step may be from that of a policy that is its own reference."""


class MPO(Objective):
    """Preference, quality and generation loss of pairs of answers (InternVL3, section 2.3; MPO, arXiv 2411.10442).

    With the rewards r = beta * (log-probability under the policy - under the reference) of the chosen answer c and the
    rejected one j, a pair's loss is

    - DPO (arXiv 2305.18290): `-log sigmoid(r_c - r_j)`, smoothed as in its authors' code;
    - BCO (arXiv 2404.04656): `-log sigmoid(r_c - delta) - log sigmoid(delta - r_j)`, delta the mean of all rewards yet;

    and to their weighted mean over all pairs of the step the mean negative log-likelihood of the words of its chosen
    answers is added. A policy that equals its reference starts at 0.8 ln 2 + 0.2 * 2 ln 2 = 0.832 plus that likelihood.
    DPO alone is `MPO(dpo_weight=1, bco_weight=0, nll_weight=0)`. Log-probabilities are sums over an answer's targets.

    delta is updated once in each optimizer step, before it is used there, with the rewards of all pairs of the step,
    each counted once; the reference code adds one mean for each rank instead, whatever the number of its pairs. So
    delta, as the loss, is the same for any split into ranks and micro-batches. It is kept in fp64, lies in the
    checkpoint and does not move in evaluation mode. Under accumulation the rewards of a step have to be known before
    its first backward: the other micro-batches are run once more without gradient, which costs about a third on top,
    and with other draws where dropout or drop path is on. A run that was stopped inside a step goes on with the delta
    of that step, whose pairs are not counted again.

    A first step whose preference terms are not those of equal models is reported. Where dropout or drop path is on it
    is measured beforehand, in evaluation mode: one forward pass more in a run.

    Args:
        beta: Of the rewards.
        dpo_weight: Of the preference loss.
        bco_weight: Of the quality loss; 0 leaves delta alone, and spares the further forward passes under accumulation.
        nll_weight: Of the generation loss.
        label_smoothing: Share of the pairs that are taken to be the wrong way round, in DPO.
        reference: Makes what gives the reference's log-probabilities, see `mmcomponents.objectives.references`.
        head: Name of the language-model head.
    """

    denominator = "pairs"
    validated = MappingProxyType(
        dict.fromkeys(("dpo", "bco", "chosen_reward", "rejected_reward", "margin", "accuracy"), "pairs")
        | {"nll": "chosen_targets"}
    )

    def __init__(
        self,
        beta: float = 0.1,
        dpo_weight: float = 0.8,
        bco_weight: float = 0.2,
        nll_weight: float = 1.0,
        label_smoothing: float = 0.0,
        reference: Callable[[], Reference] = StoredReference,
        head: str = "lm",
    ) -> None:
        super().__init__()
        if beta <= 0.0:
            raise ValueError(f"beta must be above 0, got {beta}")
        if not 0.0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
        self.beta, self.label_smoothing = beta, label_smoothing
        self.dpo_weight, self.bco_weight, self.nll_weight = dpo_weight, bco_weight, nll_weight
        self.loss_weights = {"dpo": dpo_weight, "bco": bco_weight, "nll": nll_weight}
        self.reference = reference()
        self.head = head
        self.needs_heads = (head,)
        # No buffer: precision settings cast those.
        self._delta = torch.zeros((), dtype=torch.float64, device="cpu")
        self._pairs = 0.0
        self._left = 0  # packs of the step that are yet to come; delta has moved for them already

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Has the reference get ready."""
        self.reference.prepare(model, build)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Number of pairs, and of targets of their chosen answers.

        Raises:
            WiringError: A sample is no pair, an answer has no target, or the reference does not know a pair.
        """
        _refuse_others(batch)
        targets = target_counts(batch)
        for answer, side in enumerate(("chosen", "rejected")):
            if batch.pairs is not None and (empty := (targets[:, answer] == 0).nonzero()[:, 0].tolist()):
                key = batch.keys[int(batch.pairs.chosen[empty[0]])]
                raise WiringError(f"the {side} answer of {key} has no word to learn ({len(empty)} such in this pack)")
        self.reference.check(batch)
        return {"pairs": float(len(targets)), "chosen_targets": float(targets[:, 0].sum())}

    def terms(self, policy_logps: Tensor, reference_logps: Tensor) -> dict[str, Tensor]:
        """The terms of a step from log-probabilities alone; in training mode a call moves delta as a step does.

        Args:
            policy_logps: `[P, 2]`, chosen and rejected, summed over each answer; any type of float.
            reference_logps: `[P, 2]` likewise; no gradient goes to them.

        Returns:
            "dpo" and "bco", means over the pairs, unweighted, with gradient; "delta" as it was used, "chosen_reward"
            and "rejected_reward" (means) without. fp32, or fp64 where the policy's are.
        """
        rewards = self._rewards(policy_logps, reference_logps)
        if self.training:
            self._move(rewards.detach().sum(), float(len(rewards)))
        dpo, bco = self._losses(rewards, self._delta)
        means = rewards.detach().sum(0) / max(len(rewards), 1)
        found = {
            "dpo": dpo.sum() / max(len(rewards), 1),
            "bco": bco.sum() / max(len(rewards), 1),
            "delta": self._delta.to(rewards.device),
            "chosen_reward": means[0],
            "rejected_reward": means[1],
        }
        dtype = torch.promote_types(policy_logps.dtype, torch.float32)
        return {name: value.to(dtype) for name, value in found.items()}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Loss of the pack, as its share of the step; zero where there is no pair.

        Every rank runs the same passes in the same order, whatever is in its packs.
        """
        begins, packs = self.training and self._begins_step(batch, totals), [batch, *(batch.window or ())]
        fresh, device = begins and self._pairs == 0.0 and totals["pairs"] > 0, batch.labels.device
        noisy = fresh and is_random(cast(nn.Module, model))
        if noisy:
            with evaluating(cast(nn.Module, model)):
                start = torch.cat([self._ahead(model, pack.to(device)) for pack in packs])
            self._check_start(start, totals["pairs"])
        others: list[Tensor] = []
        if begins and (self.bco_weight or (fresh and not noisy)):
            others = [self._ahead(model, pack.to(device)) for pack in packs[1:]]
        reference = self.reference.logps(model, batch, self.head)
        policy = answer_logps(model, batch, self.head)
        rewards = self._rewards(policy, reference)
        known = rewards.detach()
        if begins:
            step = torch.cat([known, *others])
            self._move(_over_ranks(step.sum()) if self.bco_weight else step.sum(), totals["pairs"])
            if fresh and not noisy:
                self._check_start(step, totals["pairs"])
        if self.training:
            self._left = len(packs) - 1 if batch.window is not None else max(self._left - 1, 0)

        dpo, bco = self._losses(rewards, self._delta)
        pairs, targets = max(totals["pairs"], 1.0), max(totals["chosen_targets"], 1.0)
        shares = {"dpo": dpo.sum() / pairs, "bco": bco.sum() / pairs, "nll": -policy[:, 0].sum() / targets}
        total = self.dpo_weight * shares["dpo"] + self.bco_weight * shares["bco"] + self.nll_weight * shares["nll"]
        margin = known[:, 0] - known[:, 1]
        shares |= {
            "delta": self._delta.to(known.device) * len(known) / pairs,  # the same for all pairs of a step
            "chosen_reward": known[:, 0].sum() / pairs,
            "rejected_reward": known[:, 1].sum() / pairs,
            "margin": margin.sum() / pairs,
            "accuracy": (margin > 0).sum() / pairs,
        }
        parts = {name: value.detach().float() for name, value in {"loss": total, **shares}.items()}
        return LossOutput(total.float(), parts)

    def get_extra_state(self) -> Tensor:
        """Delta, the number of pairs that it is the mean over, and how many packs of their last step are yet to come.

        For the checkpoint, and the same on all ranks. Only a run that stops inside an accumulation window leaves packs.
        """
        return torch.tensor([float(self._delta), self._pairs, self._left], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on with a checkpoint's delta."""
        self._delta, self._pairs = state[0].detach().to("cpu", torch.float64, copy=True), float(state[1])
        self._left = int(state[2])

    def _begins_step(self, batch: PackedBatch, totals: dict[str, float]) -> bool:
        """Whether the pack is the first of its optimizer step, and delta has not moved for that yet."""
        if batch.totals is None:
            return True  # nobody has looked ahead: the pack is the step
        if batch.window is None and self._pairs == 0.0 and totals["pairs"]:
            raise WiringError(
                "the first pack of a step does not know the others, which delta is to be computed from: wrap the loader"
                " in mmcomponents.data.Lookahead"
            )
        # A run that was stopped inside a step goes on with the packs that were left of it.
        return batch.window is not None and len(batch.window) + 1 != self._left

    @torch.no_grad()
    def _ahead(self, model: Model, batch: PackedBatch) -> Tensor:
        """Rewards of a pack, which may be yet to come in this step."""
        reference = self.reference.logps(model, batch, self.head)
        return self._rewards(answer_logps(model, batch, self.head), reference)

    def _rewards(self, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """fp64: a difference of large numbers."""
        return self.beta * (policy_logps.double() - reference_logps.detach().double())

    def _losses(self, rewards: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """DPO and BCO of each pair."""
        margin, shifted = rewards[:, 0] - rewards[:, 1], rewards - delta.to(rewards.device)
        dpo = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return dpo, -logsigmoid(shifted[:, 0]) - logsigmoid(-shifted[:, 1])

    def _move(self, rewards: Tensor, pairs: float) -> None:
        """Updates delta with the sum of the rewards of a whole step."""
        if not pairs:
            return
        self._pairs += pairs
        if self.bco_weight:
            before = self._delta.to(rewards.device)  # it stays there: reading it back would wait for the device
            self._delta = before + (rewards / 2 - pairs * before) / self._pairs

    def _check_start(self, rewards: Tensor, pairs: float) -> None:
        """Reports a first step whose reference cannot be the model that is trained.

        Args:
            rewards: Of this rank's pairs of the step, `[P, 2]`, from passes without dropout and drop path.
            pairs: Number of pairs of the step over all ranks.
        """
        means = _over_ranks(rewards.sum(0)) / pairs
        dpo, bco = self._losses(rewards, means.mean())
        loss = float(_over_ranks(self.dpo_weight * dpo.sum() + self.bco_weight * bco.sum()) / pairs)
        chosen, rejected = means.tolist()
        expected = (self.dpo_weight + 2 * self.bco_weight) * math.log(2)
        if abs(loss - expected) > _FAR and not (_distributed() and torch.distributed.get_rank()):
            logger.warning(
                "before any training the preference terms are %.4f; %.4f is expected where policy and reference are one"
                " (mean reward of chosen answers %.3f, of rejected ones %.3f, 0 expected). The reference is probably of"
                " another checkpoint, or was computed with other tiles, another V2PE delta or another system text",
                loss,
                expected,
                chosen,
                rejected,
            )


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _over_ranks(value: Tensor) -> Tensor:
    """Sum over all ranks, which all take part."""
    if _distributed():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def _refuse_others(batch: PackedBatch) -> None:
    """Refuses what is in no pair, which the loss would leave out without a word."""
    pairs, other = pairs_of(batch), batch.segment_sample >= 0
    other[pairs.chosen] = other[pairs.rejected] = False
    if found := other.nonzero()[:, 0].tolist():
        raise WiringError(
            f"MPO learns from pairs of answers and {batch.keys[found[0]]} is none ({len(found)} such in this pack):"
            " leave its source out (data.sources.NAME.repeat 0; of data.val, its shards), or take NextToken"
        )
