"""Second model of an objective: a teacher, or a reference."""

from __future__ import annotations

from typing import Any, Self, cast

from torch import nn
from torch.distributed.tensor import DTensor

from mmcomponents.component import WiringError
from mmcomponents.objectives.base import Build, Model


class FrozenModel:
    """A model that an objective runs without training it, in evaluation mode.

    It is not a module: its content is in no state_dict, gets no gradient, and is not cast, moved or set to training
    mode with the objective. Copies of the objective share it, as it is constant and may be large.

    Args:
        name: What it is called in messages.
        folder: Folder of the model; None: the initial weights of the run.
    """

    def __init__(self, name: str, folder: str | None = None) -> None:
        self.name, self.folder = name, folder
        self._model: Model | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def prepare(self, build: Build) -> None:
        """Builds the model once."""
        if self._model is None:
            self._model = build() if self.folder is None else build(self.folder)
            _module(self._model).requires_grad_(False).eval()

    def beside(self, model: Model) -> Model:
        """Returns the frozen model, on the device and in the data type of the trained one.

        A sharded one is built there.

        Raises:
            WiringError: It has not been built.
        """
        if self._model is None:
            raise WiringError(f"{self.name} has no model yet: call the objective's `prepare` before the first step")
        ours, theirs = next(_module(self._model).parameters()), next(_module(model).parameters())
        if not isinstance(ours, DTensor) and (ours.device, ours.dtype) != (theirs.device, theirs.dtype):
            _module(self._model).to(theirs.device, theirs.dtype)
        return self._model


def _module(model: Model) -> nn.Module:
    """Returns the model with the type of a module."""
    return cast(nn.Module, model)
