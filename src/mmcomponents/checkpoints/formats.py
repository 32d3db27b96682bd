"""Base class of checkpoint formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Rule
from mmcomponents.checkpoints.spec import ModelSpec


class Format(ABC):
    """Checkpoint format: its configuration and the names of its weights."""

    name: ClassVar[str]
    """Name of the format for `--format` and in messages."""

    ignored: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of weights to ignore."""

    @abstractmethod
    def matches(self, config: Mapping[str, Any]) -> bool:
        """Returns whether a `config.json` is of this format."""

    @abstractmethod
    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """Returns the model of a configuration.

        Args:
            config: The `config.json`.
            names: Names of the weights. They determine whether a head is tied, as configurations get it wrong.

        Raises:
            CheckpointError: The model has a feature that this library's parts do not support.
        """

    def refined(self, spec: ModelSpec, folder: Path) -> ModelSpec:
        """Returns the spec updated from other files of the folder."""
        return spec

    def normalized(self, name: str) -> str:
        """Returns a weight's name in the layout of the rules, for formats with several layouts."""
        return name

    @abstractmethod
    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """Returns the rules for weight names, for reading and writing."""

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the `config.json` of a model.

        Args:
            spec: The model.
            source: Configuration that the model was read from if it is of this format, else empty. Its other keys are
                kept.

        Raises:
            CheckpointError: The format cannot express the model, or is read-only.
        """
        raise CheckpointError(f"the format {self.name} can be read but not written")
