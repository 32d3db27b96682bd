"""Our own format: the parts as a recipe names them, weights under the names that they have in the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.rules import Rule, rename
from mmcomponents.checkpoints.spec import ModelSpec

VERSION = 1


class Native(Format):
    """Any composition of parts, also of other packages."""

    name = "mmcomponents"

    def matches(self, config: Mapping[str, Any]) -> bool:
        """By the model type."""
        return config.get("model_type") == self.name

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        version = config.get("version")
        if version != VERSION:
            raise CheckpointError(f"this folder is of version {version} of our format; {VERSION} is what can be read")
        return ModelSpec.from_config(dict(config))

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """Names stay as they are."""
        return [rename("{rest}", "{rest}")]

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class."""
        return {"model_type": self.name, "version": VERSION, **spec.as_config()}
