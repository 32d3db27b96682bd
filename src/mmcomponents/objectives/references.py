"""Reference log-probabilities of preference losses, of the model that training started from.

Source: DPO (arXiv 2305.18290, section 4), whose reference is the policy before training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.component import Composition, WiringError
from mmcomponents.nn.modes import evaluating
from mmcomponents.objectives.answers import answer_logps, pairs_of
from mmcomponents.objectives.base import Build, Model
from mmcomponents.objectives.frozen_model import FrozenModel

logger = logging.getLogger(__name__)


class Reference:
    """Source of the reference log-probabilities of the answers of a pack.

    It is not a module: its content is in no state_dict, gets no gradient, and is not cast, moved or set to training
    mode with the objective. Copies of the objective share it, as it is constant and may be as large as a model.
    """

    is_model: ClassVar[bool] = False
    """Whether it contains a second model."""
    runs_model: ClassVar[bool] = False
    """Whether a step runs a model for it, without gradient."""
    _warned = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def prepare(self, model: Model, build: Build) -> None:
        """Prepares for training; see `Objective.prepare`."""

    def check_model(self, model: Composition) -> None:
        """Checks a composed model, whose weights may be on the meta device; raises if it cannot be the policy."""

    def check(self, batch: PackedBatch) -> None:
        """Checks a pack before its step; raises if the reference has no values for it."""
        if batch.pairs is not None and batch.pairs.reference_logps is not None and not self._warned:
            self._warned = True
            logger.warning(
                "the stored log-probabilities of the data are not used: the reference is %s, not StoredReference",
                type(self).__name__,
            )

    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """Computes log-probabilities `[P, 2]` of chosen and rejected answers without gradient; all ranks call it.

        Args:
            model: The policy.
            batch: The pack.
            head: Name of the language-model head.
        """
        raise NotImplementedError


class StoredReference(Reference):
    """Precomputed log-probabilities stored with the data: no second model and no second forward pass."""

    def check(self, batch: PackedBatch) -> None:
        """Checks that all pairs have stored values.

        Raises:
            WiringError: They do not; the message names the first such pair.
        """
        stored, pairs = self._stored(batch), pairs_of(batch)
        missing = (~stored.isfinite().all(1)).nonzero()[:, 0].tolist()
        if missing:
            raise self._missing(batch, int(pairs.chosen[missing[0]]))

    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """Returns the stored values."""
        return self._stored(batch)

    def _stored(self, batch: PackedBatch) -> Tensor:
        if batch.pairs is None:
            return torch.zeros(0, 2, device=batch.input_ids.device)
        if batch.pairs.reference_logps is None:
            raise self._missing(batch, int(batch.pairs.chosen[0]))
        return batch.pairs.reference_logps.tensor

    def _missing(self, batch: PackedBatch, segment: int) -> WiringError:
        return WiringError(
            f"the pair {batch.keys[segment]} has no stored reference log-probabilities: compute them with"
            " `mmcomponents predict` and set data.reference_logps, or use model.objective.reference: FrozenReference"
        )


class FrozenReference(Reference):
    """Second copy of the model with the initial weights of the run, frozen and in evaluation mode.

    It needs the memory of the weights (sharded as the policy's are, in the data type of the computation) and one more
    forward pass per pack. A resumed run
    rebuilds it from the initial weights, which still have to be available.
    """

    is_model = runs_model = True

    def __init__(self) -> None:
        self._copy = FrozenModel(type(self).__name__)

    def prepare(self, model: Model, build: Build) -> None:
        """Builds the copy once."""
        self._copy.prepare(build)

    @torch.no_grad()
    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """Computes the log-probabilities of the copy."""
        return answer_logps(self._copy.beside(model), batch, head)


class AdaptersOff(Reference):
    """The policy with its peft adapters disabled, which is the model before training, without additional memory.

    Requires that only adapters are trained and that they start from zero. Methods that move a part of the weights into
    the adapter (PiSSA, OLoRA, LoftQ) raise an error. For adapters with a random start (`init_lora_weights: false`), the
    reference is the model without them, and MPO reports the first step.
    """

    runs_model = True

    def prepare(self, model: Model, build: Build) -> None:
        """Checks that the policy without adapters is the model that training started from.

        Raises:
            WiringError: There are no adapters, they took over a part of the weights, or other weights are trained too.
        """
        self.check_model(cast(Composition, model))
        moved = [layer for layer in _adapter_layers(model) if getattr(layer, "base_was_changed", False)]
        if moved:
            raise WiringError(
                "AdaptersOff uses the model without adapters as the reference, and the start of the adapters has"
                f" changed the weights of {len(moved)} layers below them, as PiSSA, OLoRA and LoftQ do: start them from"
                " zero (init_lora_weights: true), or use model.objective.reference: FrozenReference"
            )

    def check_model(self, model: Composition) -> None:
        """Checks that adapters are trained, and nothing else.

        Raises:
            WiringError: There are no adapters, or other weights are trained too.
        """
        policy = cast(Model, model)
        layers = list(_adapter_layers(policy))
        if not layers:
            raise WiringError(
                "AdaptersOff disables adapters and the model has none: train a slot with adapters,"
                " or use model.objective.reference: FrozenReference"
            )
        own = {id(p) for layer in layers for names in layer.adapter_layer_names for p in _parameters(layer, names)}
        others = [name for name, p in _module(policy).named_parameters() if p.requires_grad and id(p) not in own]
        if others:
            raise WiringError(
                f"AdaptersOff uses the model without adapters as the reference, and {len(others)} other weights are"
                f" trained too (such as {others[0]}): freeze their slots (model.slots.NAME.trainable: false),"
                " or use model.objective.reference: FrozenReference"
            )

    @torch.no_grad()
    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """Computes the log-probabilities of the policy in evaluation mode, without its adapters."""
        with _without_adapters(model), evaluating(_module(model)):
            return answer_logps(model, batch, head)


def _module(model: Model) -> nn.Module:
    """Returns the model with the type of a module."""
    return cast(nn.Module, model)


def _adapter_layers(model: Model) -> Iterator[Any]:
    """Yields the layers of peft, and the copies of complete modules that it trains."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for module in _module(model).modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield module


def _parameters(layer: Any, name: str) -> Iterator[nn.Parameter]:
    found = getattr(layer, name, None)
    if isinstance(found, nn.Parameter):
        yield found
    elif isinstance(found, nn.Module):
        yield from found.parameters()


@contextmanager
def _without_adapters(model: Model) -> Iterator[None]:
    """Disables the adapters within the block.

    peft's `enable_adapters` also disables the gradients of the adapter weights and then enables all of them; a sharded
    weight that is gathered for the first time in between would never get a gradient.
    """
    layers = list(_adapter_layers(model))
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value
