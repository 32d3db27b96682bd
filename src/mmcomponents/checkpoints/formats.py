"""The contract of a checkpoint format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.rules import Rule
from mmcomponents.checkpoints.spec import ModelSpec


class Format(ABC):
    """One way in which checkpoints are stored: what its configuration says and how its weights are called."""

    name: ClassVar[str]
    """As `--format` takes it and messages show it."""

    ignored: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of weights that mean nothing."""

    @abstractmethod
    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is of this format."""

    @abstractmethod
    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """What a configuration says of the model.

        Args:
            config: The `config.json`.
            names: Of the weights: whether a head is tied is read from them, as configurations get it wrong.

        Raises:
            CheckpointError: The model has something that our parts do not have.
        """

    def refined(self, spec: ModelSpec, folder: Path) -> ModelSpec:
        """The spec with what other files of the folder say."""
        return spec

    def normalized(self, name: str) -> str:
        """A weight's name in the one layout that the rules are about, where a format has several."""
        return name

    @abstractmethod
    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """How the weights are called, to be read and to be written."""

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """The `config.json` of a model.

        Args:
            spec: The model.
            source: The configuration that it was read from, where it was of this very format; else empty. What the
                model does not know of is carried over.

        Raises:
            CheckpointError: This format cannot express the model, or it is one that is only read.
        """
        raise CheckpointError(f"the format {self.name} is read, and not written")
