"""Native format: parts as named in recipes, weights under their names in the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.part_files import found_in
from mmcomponents.checkpoints.rules import Rule, rename
from mmcomponents.checkpoints.spec import ModelSpec

VERSION = 1


class Native(Format):
    """Format of any composition of parts, including those of other packages."""

    name = "mmcomponents"

    def matches(self, config: Mapping[str, Any]) -> bool:
        """See the base class; decided by the model type."""
        return config.get("model_type") == self.name

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        version = config.get("version")
        if version != VERSION:
            raise CheckpointError(f"version {version} of the format {self.name} is not supported, only {VERSION}")
        return ModelSpec.from_config(dict(config))

    def refined(self, spec: ModelSpec, folder: Path) -> ModelSpec:
        """See the base class; files of parts are in the folder."""
        return found_in(spec, folder)

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """See the base class; names are unchanged."""
        return [rename("{rest}", "{rest}")]

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class."""
        return {"model_type": self.name, "version": VERSION, **spec.as_config()}
