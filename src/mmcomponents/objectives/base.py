"""Base class of objectives."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch
from mmcomponents.component import Component, Composition, WiringError
from mmcomponents.nn.runtime import Runtime


class Model(Protocol):
    """Interface of the model that objectives use."""

    heads: nn.ModuleDict

    def __call__(
        self,
        batch: PackedBatch,
        runtime: Runtime | None = None,
        read: Callable[[nn.ModuleDict, ModelState], Any] | None = None,
    ) -> Any:
        """See `mmcomponents.model.MultimodalModel.forward`."""
        ...


class Build(Protocol):
    """Builds another model for an objective, see `Objective.prepare`."""

    def __call__(self, folder: str | Path | None = None) -> Model:
        """Returns the model of a folder; None: one with the initial weights of the run."""
        ...


class LanguageHead(Protocol):
    """Interface of heads for losses over tokens; see `mmcomponents.heads.LMHead`."""

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Computes the negative log-likelihood of each position.

        Args:
            hidden: `[n, d]` hidden states.
            labels: `[n]` int64 targets, `IGNORE` where there is none.

        Returns:
            fp32 `[n]`, zero where there is no target.
        """
        ...

    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the weighted sum of the negative log-likelihoods, and their values without gradient.

        Args:
            hidden: `[n, d]` hidden states.
            labels: `[n]` int64 targets, `IGNORE` where there is none.
            row_weights: fp32 `[n]` weight of each position.

        Returns:
            The weighted sum, an fp32 scalar, and the negative log-likelihoods, fp32 `[n]` without gradient.
        """
        ...


class Objective(Component):
    """Computes the loss of a pack. Its state, if any, is saved with the run and never cast.

    It has no parameters of its own: the optimizer trains the model's slots, and what is learned belongs to a head. A
    teacher is built in `prepare` and is not a submodule. The task calls `check` with the model, whose weights may be on
    the meta device, once the heads in `needs_heads` are found.
    """

    needs: tuple[str, ...] = ()
    """Fields of `ModelState` that `forward` reads, if not all. It calls the model with `Runtime(needs=self.needs)`,
    which then stops when it has them, before a backbone whose output is not read."""

    needs_heads: tuple[str, ...] = ()
    """Names of the heads that the objective uses."""

    denominator: str = "weight"
    """Count by which the loss is divided, and by which packs are weighted in a mean over several packs."""

    validated: Mapping[str, str] = MappingProxyType({})
    """Parts besides the loss that are also logged in validation, each with the count of its mean."""

    loss_weights: Mapping[str, float] = MappingProxyType({})
    """Weights of the validated parts whose sum is the loss, if they are means over different counts."""

    folders: tuple[str, ...] = ()
    """Folders of the other models that `prepare` builds, which `check_other` gets before."""

    def check_other(self, model: Composition, other: Composition) -> None:
        """Checks that a model of `folders` fits the trained one. The default does nothing.

        Args:
            model: Model to be trained, whose weights may be on the meta device.
            other: Model of the folder, with its weights on the meta device.

        Raises:
            WiringError: It does not fit; the message names both and their numbers.
        """

    def prepare(self, model: Model, build: Build) -> None:
        """Prepares for training or validation. The default does nothing.

        Args:
            model: Model to be trained, with its weights and its sharding.
            build: Returns another model, which is sharded like `model` and in no state_dict: `build()` one with the
                initial weights of the run, also if the run is resumed; `build(folder)` that of a folder, such as a
                teacher.
        """

    @abstractmethod
    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Computes the counts by which the loss is divided, from the integers of the batch only.

        Their sums over all ranks and accumulated micro-batches are passed to `forward` as `totals`.
        """

    @abstractmethod
    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step, which is the sum over its packs."""


def check_head(objective: Objective, model: Composition, name: str, method: str, such_as: str) -> None:
    """Checks that a model has hidden states, and a head that computes something from them for a loss.

    Args:
        objective: The objective, for the message.
        model: Parts of the model by slot.
        name: Name of the head.
        method: Method of the head that the objective calls.
        such_as: Class of heads that have this method, for the message.

    Raises:
        WiringError: It does not.
    """
    own, head = type(objective).__name__, model.heads[name]
    if not callable(getattr(head, method, None)):
        raise WiringError(
            f"{own} calls {method} of the head {name!r}, which {type(head).__name__} does not have: use {such_as}"
        )
    if model.backbone is None:
        raise WiringError(
            f"{own} reads hidden states for the head {name!r} ({type(head).__name__}) and the backbone slot is empty"
        )


def check_objective(objective: Objective, model: Composition) -> None:
    """Checks that a model has the heads of an objective and what else it needs.

    Raises:
        WiringError: It has not.
    """
    for name in objective.needs_heads:
        if name not in model.heads:
            near = difflib.get_close_matches(name, list(model.heads), n=1) or list(model.heads)
            raise WiringError(
                f"{type(objective).__name__} reads the head {name!r} and the model has {', '.join(near) or 'none'}"
            )
    objective.check(model)
