"""The contract of an objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, Runtime
from mmcomponents.component import Component


class Model(Protocol):
    """What an objective needs of the composite."""

    heads: nn.ModuleDict

    def __call__(
        self,
        batch: PackedBatch,
        runtime: Runtime | None = None,
        read: Callable[[nn.ModuleDict, ModelState], Any] | None = None,
    ) -> Any:
        """See `mmcomponents.model.MultimodalModel.forward`."""
        ...


class LanguageHead(Protocol):
    """What a loss over words needs of a head; see `mmcomponents.heads.LMHead`."""

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each row, fp32 `[n]`."""
        ...

    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the rows, and each row's value without gradient."""
        ...


class Objective(Component):
    """Makes a loss of a pack. Its state, if it has any, is saved with the run and never cast."""

    needs_heads: tuple[str, ...] = ()
    """Names of the model's heads that the objective reads."""

    denominator: str = "weight"
    """Which of the counts the loss is divided by; a mean over several packs weighs each by it."""

    validated: Mapping[str, str] = MappingProxyType({})
    """Parts beside the loss that are logged in validation too, each with the count that it is a mean over."""

    loss_weights: Mapping[str, float] = MappingProxyType({})
    """Validated parts that the loss is the weighted sum of, where they are means over different counts."""

    def prepare(self, model: Model, build: Callable[[], Model]) -> None:
        """Gets ready before training or validation; most objectives have nothing to do.

        Args:
            model: The model that will be trained, with its weights, sharded as it is going to be.
            build: Returns another model with the weights that the run starts from, also where the run is resumed; it is
                sharded like the first, and in no state_dict.
        """

    @abstractmethod
    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """What the loss is divided by, from the batch's integers alone.

        The sums over all ranks and accumulated micro-batches come back to `forward` as `totals`.
        """

    @abstractmethod
    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """The part of the step's loss that this pack brings: the sum over packs is the loss of the step."""
