"""Mixed preference optimization.

Reference code: OpenGVLab/InternVL.
"""

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
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import check_numbers
from mmcomponents.nn.modes import evaluating, is_random
from mmcomponents.objectives.answers import answer_logps, pairs_of, target_counts
from mmcomponents.objectives.base import Build, Model, Objective, check_head
from mmcomponents.objectives.references import Reference, StoredReference

logger = logging.getLogger(__name__)

_START_TOLERANCE = 0.01
"""Maximum difference between the loss of the first step and that of a policy equal to its reference."""


class MPO(Objective):
    """Preference, quality and generation loss of pairs of answers (InternVL3, section 2.3; MPO, arXiv 2411.10442).

    With the rewards r = beta * (log-probability under the policy - under the reference) of the chosen answer c and the
    rejected answer j, the loss of a pair is

    - DPO (arXiv 2305.18290): `-log sigmoid(r_c - r_j)`, smoothed as in the authors' code;
    - BCO (arXiv 2404.04656): `-log sigmoid(r_c - delta) - log sigmoid(delta - r_j)`, delta the mean of all rewards so
      far.

    The mean negative log-likelihood of the tokens of the chosen answers is added to their weighted mean over all pairs
    of the step. A policy equal to its reference starts at 0.8 ln 2 + 0.2 * 2 ln 2 = 0.832 plus that likelihood. DPO
    alone is `MPO(dpo_weight=1, bco_weight=0, nll_weight=0)`. Log-probabilities are sums over the targets of an answer.

    delta is updated once per optimizer step, before its use in that step, with the rewards of all pairs of the step,
    each counted once; the reference code instead adds one mean per rank, whatever its number of pairs. Thus delta, like
    the loss, does not depend on the split into ranks and micro-batches. It is fp64, part of the checkpoint and constant
    in evaluation mode. Under accumulation, the rewards of a step have to be known before its first backward pass: the
    other micro-batches are run once more without gradient, which costs about a third more, and with other random draws
    if dropout or drop path is active. A run that was stopped inside a step continues with the delta of that step, whose
    pairs are not counted again.

    A first step whose preference terms are not those of equal models is reported. If dropout or drop path is active, it
    is measured before, in evaluation mode, with one additional forward pass per run.

    Args:
        beta: Factor of the rewards.
        dpo_weight: Weight of the preference loss.
        bco_weight: Weight of the quality loss; at 0, delta is not updated and accumulation needs no additional forward
            passes.
        nll_weight: Weight of the generation loss.
        label_smoothing: Share of the pairs that are assumed to be swapped, in DPO.
        reference: Factory of the source of reference log-probabilities; see `mmcomponents.objectives.references`.
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
        check_numbers(dpo_weight=dpo_weight, bco_weight=bco_weight, nll_weight=nll_weight)
        self.dpo_weight, self.bco_weight, self.nll_weight = dpo_weight, bco_weight, nll_weight
        self.loss_weights = {"dpo": dpo_weight, "bco": bco_weight, "nll": nll_weight}
        self.reference = reference()
        self.head = head
        self.needs_heads = (head,)
        # Not a buffer: precision settings cast those.
        self._delta = torch.zeros((), dtype=torch.float64, device="cpu")
        self._pairs = 0.0
        self._left = 0  # remaining packs of the step, already included in delta

    def check(self, model: Composition) -> None:
        """Checks that the head computes likelihoods and that the reference can be made from the model.

        Raises:
            WiringError: It does not, there is no backbone, or the reference cannot.
        """
        check_head(self, model, self.head, "nll", "LMHead")
        self.reference.check_model(model)

    def prepare(self, model: Model, build: Build) -> None:
        """Prepares the reference."""
        self.reference.prepare(model, build)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the pairs and the targets of their chosen answers.

        Raises:
            WiringError: A sample is not a pair, an answer has no target, or a pair has no reference log-probabilities.
        """
        _check_all_paired(batch)
        targets = target_counts(batch)
        for answer, side in enumerate(("chosen", "rejected")):
            if batch.pairs is not None and (empty := (targets[:, answer] == 0).nonzero()[:, 0].tolist()):
                key = batch.keys[int(batch.pairs.chosen[empty[0]])]
                raise WiringError(f"the {side} answer of {key} has no target ({len(empty)} such in this pack)")
        self.reference.check(batch)
        return {"pairs": float(len(targets)), "chosen_targets": float(targets[:, 0].sum())}

    def terms(self, policy_logps: Tensor, reference_logps: Tensor) -> dict[str, Tensor]:
        """Computes the terms of a step from log-probabilities; in training mode, a call updates delta as a step does.

        Args:
            policy_logps: `[P, 2]`, chosen and rejected, summed over each answer; any float dtype.
            reference_logps: `[P, 2]` likewise; they get no gradient.

        Returns:
            Scalars by name: "dpo" and "bco", unweighted means over the pairs, with gradient; "delta" as used,
            "chosen_reward" and "rejected_reward" (means) without. fp32, or fp64 if the policy's are.
        """
        rewards = self._rewards(policy_logps, reference_logps)
        if self.training:
            self._update_delta(rewards.detach().sum(), float(len(rewards)))
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
        """Computes the share of the pack in the loss of the step; zero without pairs.

        All ranks run the same passes in the same order, whatever their packs contain.
        """
        begins, packs = self.training and self._begins_step(batch, totals), [batch, *(batch.window or ())]
        is_first, device = begins and self._pairs == 0.0 and totals["pairs"] > 0, batch.labels.device
        noisy = is_first and is_random(cast(nn.Module, model))
        if noisy:
            with evaluating(cast(nn.Module, model)):
                start = torch.cat([self._rewards_of(model, pack.to(device)) for pack in packs])
            self._check_start(start, totals["pairs"])
        others: list[Tensor] = []
        if begins and (self.bco_weight or (is_first and not noisy)):
            others = [self._rewards_of(model, pack.to(device)) for pack in packs[1:]]
        reference = self.reference.logps(model, batch, self.head)
        policy = answer_logps(model, batch, self.head)
        rewards = self._rewards(policy, reference)
        detached = rewards.detach()
        if begins:
            step = torch.cat([detached, *others])
            self._update_delta(_over_ranks(step.sum()) if self.bco_weight else step.sum(), totals["pairs"])
            if is_first and not noisy:
                self._check_start(step, totals["pairs"])
        if self.training:
            self._left = len(packs) - 1 if batch.window is not None else max(self._left - 1, 0)

        dpo, bco = self._losses(rewards, self._delta)
        pairs, targets = max(totals["pairs"], 1.0), max(totals["chosen_targets"], 1.0)
        shares = {"dpo": dpo.sum() / pairs, "bco": bco.sum() / pairs, "nll": -policy[:, 0].sum() / targets}
        total = self.dpo_weight * shares["dpo"] + self.bco_weight * shares["bco"] + self.nll_weight * shares["nll"]
        margin = detached[:, 0] - detached[:, 1]
        shares |= {
            "delta": self._delta.to(detached.device) * len(detached) / pairs,  # the same for all pairs of a step
            "chosen_reward": detached[:, 0].sum() / pairs,
            "rejected_reward": detached[:, 1].sum() / pairs,
            "margin": margin.sum() / pairs,
            "accuracy": (margin > 0).sum() / pairs,
        }
        parts = {name: value.detach().float() for name, value in {"loss": total, **shares}.items()}
        return LossOutput(total.float(), parts)

    def get_extra_state(self) -> Tensor:
        """Returns delta, its number of pairs and the number of remaining packs of the last step, fp64 `[3]`.

        It is part of the checkpoint, and the same on all ranks. Packs remain only if the run stops inside an
        accumulation window.
        """
        return torch.tensor([float(self._delta), self._pairs, self._left], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` returned, `[3]`, from a checkpoint."""
        self._delta, self._pairs = state[0].detach().to("cpu", torch.float64, copy=True), float(state[1])
        self._left = int(state[2])

    def _begins_step(self, batch: PackedBatch, totals: dict[str, float]) -> bool:
        """Returns whether the pack is the first of its optimizer step, for which delta is not updated yet."""
        if batch.totals is None:
            return True  # without lookahead, the pack is the step
        if batch.window is None and self._pairs == 0.0 and totals["pairs"]:
            raise WiringError(
                "the first pack of a step has no window with the others, which delta is computed from: wrap the loader"
                " in mmcomponents.data.loading.Lookahead"
            )
        # A run that was stopped inside a step continues with its remaining packs.
        return batch.window is not None and len(batch.window) + 1 != self._left

    @torch.no_grad()
    def _rewards_of(self, model: Model, batch: PackedBatch) -> Tensor:
        """Computes the rewards of a pack without gradient."""
        reference = self.reference.logps(model, batch, self.head)
        return self._rewards(answer_logps(model, batch, self.head), reference)

    def _rewards(self, policy_logps: Tensor, reference_logps: Tensor) -> Tensor:
        """Computes rewards in fp64, as they are differences of large numbers."""
        return self.beta * (policy_logps.double() - reference_logps.detach().double())

    def _losses(self, rewards: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the DPO and the BCO loss of each pair."""
        margin, shifted = rewards[:, 0] - rewards[:, 1], rewards - delta.to(rewards.device)
        dpo = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return dpo, -logsigmoid(shifted[:, 0]) - logsigmoid(-shifted[:, 1])

    def _update_delta(self, rewards: Tensor, pairs: float) -> None:
        """Updates delta with the sum of the rewards of a complete step."""
        if not pairs:
            return
        self._pairs += pairs
        if self.bco_weight:
            before = self._delta.to(rewards.device)  # stays on the device: a copy to the CPU would synchronise
            change = (rewards / 2 - pairs * before) / self._pairs
            self._delta = before + change.where(change.isfinite(), 0.0)  # a step that is skipped must leave no NaN

    def _check_start(self, rewards: Tensor, pairs: float) -> None:
        """Reports a first step whose reference cannot be the trained model.

        Args:
            rewards: Rewards of this rank's pairs of the step, `[P, 2]`, from passes without dropout and drop path.
            pairs: Number of pairs of the step over all ranks.
        """
        means = _over_ranks(rewards.sum(0)) / pairs
        dpo, bco = self._losses(rewards, means.mean())
        loss = float(_over_ranks(self.dpo_weight * dpo.sum() + self.bco_weight * bco.sum()) / pairs)
        chosen, rejected = means.tolist()
        expected = (self.dpo_weight + 2 * self.bco_weight) * math.log(2)
        if abs(loss - expected) > _START_TOLERANCE and not (_distributed() and torch.distributed.get_rank()):
            logger.warning(
                "before any training the preference terms are %.4f; %.4f is expected if policy and reference are equal"
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
    """Returns the sum over all ranks, all of which have to call it."""
    if _distributed():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def _check_all_paired(batch: PackedBatch) -> None:
    """Raises `WiringError` for samples outside pairs, which the loss would silently ignore."""
    pairs, other = pairs_of(batch), batch.segment_sample >= 0
    other[pairs.chosen] = other[pairs.rejected] = False
    if found := other.nonzero()[:, 0].tolist():
        raise WiringError(
            f"MPO needs pairs of answers and {batch.keys[found[0]]} is not a pair ({len(found)} such in this pack):"
            " exclude its source (data.sources.NAME.repeat 0; of data.val, its shards), or use NextToken"
        )
