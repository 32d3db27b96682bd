"""What a preference loss measures the policy against: the log-probabilities of the model that training started from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.objectives.answers import answer_logps, pairs_of
from mmcomponents.objectives.base import Model
from mmcomponents.objectives.modes import evaluating

logger = logging.getLogger(__name__)


class Reference:
    """Gives the reference's log-probabilities of a pack's answers.

    It is no module: whatever it holds is in no state_dict, gets no gradient, and is cast, moved and switched to
    training mode by nobody else. A copy of the objective shares it: it does not change, and may be as large as a model.
    """

    is_model: ClassVar[bool] = False
    """Whether it holds a second model."""
    runs_model: ClassVar[bool] = False
    """Whether a step runs a model for it, forward and without gradient."""
    _told = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Gets ready before training; see `Objective.prepare`."""

    def check(self, batch: PackedBatch) -> None:
        """Refuses a pack that the reference cannot judge, before the step that it belongs to begins."""
        if batch.pairs is not None and batch.pairs.reference_logps is not None and not self._told:
            self._told = True
            logger.warning(
                "the stored log-probabilities of the data are not used: the reference is %s, and StoredReference would"
                " read them",
                type(self).__name__,
            )

    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """Log-probabilities `[P, 2]` of chosen and rejected answers, without gradient; every rank takes part.

        Args:
            model: The policy.
            batch: The pack.
            head: Name of the language-model head.
        """
        raise NotImplementedError


class StoredReference(Reference):
    """Log-probabilities that were computed beforehand and lie beside the data: no second model, no second forward."""

    def check(self, batch: PackedBatch) -> None:
        """Refuses pairs without a stored value.

        Raises:
            WiringError: Naming the first of them.
        """
        stored, pairs = self._stored(batch), pairs_of(batch)
        missing = (~stored.isfinite().all(1)).nonzero()[:, 0].tolist()
        if missing:
            raise self._missing(batch, int(pairs.chosen[missing[0]]))

    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """The stored values."""
        return self._stored(batch)

    def _stored(self, batch: PackedBatch) -> Tensor:
        if batch.pairs is None:
            return torch.zeros(0, 2, device=batch.input_ids.device)
        if batch.pairs.reference_logps is None:
            raise self._missing(batch, int(batch.pairs.chosen[0]))
        return batch.pairs.reference_logps.tensor

    def _missing(self, batch: PackedBatch, segment: int) -> WiringError:
        return WiringError(
            f"the pair {batch.keys[segment]} has no stored log-probabilities of the reference: compute them with"
            " `mmcomponents predict` and set data.reference_logps, or take model.objective.reference: FrozenReference"
        )


class FrozenReference(Reference):
    """A second copy of the model with the weights that the run started from, frozen and in evaluation mode.

    It costs the memory of the weights (sharded as the policy's are) and one more forward pass a pack. A resumed run
    builds it anew from the starting weights, which have to be there still.
    """

    is_model = runs_model = True

    def __init__(self) -> None:
        self._model: Model | None = None

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Builds the copy, once."""
        if self._model is None:
            self._model = build()
            built = _module(self._model).requires_grad_(False).eval()
            built.to(next(built.parameters()).device)  # moves nothing: Lightning's modules note where they are

    @torch.no_grad()
    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """What the copy says."""
        if self._model is None:
            raise WiringError("FrozenReference has no model yet: call the objective's `prepare` before the first step")
        _follow(_module(self._model), _module(model))
        return answer_logps(self._model, batch, head)


class AdaptersOff(Reference):
    """The policy itself with its peft adapters switched off: what it was before training, at no memory at all.

    Right where adapters are all that is trained, and start from nothing. Methods that move a part of the weights into
    the adapter (PiSSA, OLoRA, LoftQ) are refused. Adapters that are drawn to change answers from the beginning
    (`init_lora_weights: false`) are measured against the model without them, and MPO reports the first step.
    """

    runs_model = True

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Makes sure that the policy without adapters is what training started from.

        Raises:
            WiringError: There are no adapters, they began with a part of the weights, or other weights are trained too.
        """
        layers = list(_adapter_layers(model))
        if not layers:
            raise WiringError(
                "AdaptersOff switches adapters off and the model has none: train a slot with adapters,"
                " or take model.objective.reference: FrozenReference"
            )
        moved = [layer for layer in layers if getattr(layer, "base_was_changed", False)]
        if moved:
            raise WiringError(
                "AdaptersOff takes the model without adapters for the reference, and the start of the adapters has"
                f" changed the weights of {len(moved)} layers below them, as PiSSA, OLoRA and LoftQ do: start them from"
                " nothing (init_lora_weights: true), or take model.objective.reference: FrozenReference"
            )
        own = {id(p) for layer in layers for names in layer.adapter_layer_names for p in _parameters(layer, names)}
        others = [name for name, p in _module(model).named_parameters() if p.requires_grad and id(p) not in own]
        if others:
            raise WiringError(
                f"AdaptersOff takes the model without adapters for the reference, and {len(others)} other weights are"
                f" trained too (such as {others[0]}): freeze their slots (model.slots.NAME.trainable: false),"
                " or take model.objective.reference: FrozenReference"
            )

    @torch.no_grad()
    def logps(self, model: Model, batch: PackedBatch, head: str) -> Tensor:
        """What the policy says in evaluation mode, without its adapters."""
        with _without_adapters(model), evaluating(_module(model)):
            return answer_logps(model, batch, head)


def _module(model: Model) -> nn.Module:
    """The model as what it also is."""
    return cast(nn.Module, model)


def _follow(reference: nn.Module, policy: nn.Module) -> None:
    """Puts a copy where the policy is, in its type; a sharded one was made there."""
    ours, theirs = next(reference.parameters()), next(policy.parameters())
    if not isinstance(ours, DTensor) and (ours.device, ours.dtype) != (theirs.device, theirs.dtype):
        reference.to(theirs.device, theirs.dtype)


def _adapter_layers(model: Model) -> Iterator[Any]:
    """Layers of peft's, and copies of whole modules that it trains."""
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
    """Switches adapters off for a while.

    peft's own `enable_adapters` also takes the gradient from the adapters' weights and gives it back to all of them; a
    sharded weight that is gathered for the first time in between would never get one.
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
