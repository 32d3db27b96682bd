"""Folders of models that none of our parts is: what transformers reads, for the parts that wrap it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from mmcomponents.backbones import TransformersLM
from mmcomponents.backbones.transformers_lm import pretrained as pretrained_lm
from mmcomponents.checkpoints.adapters import own_parameters
from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.files import check_folder, read_json
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.vision import TransformersVision
from mmcomponents.vision.transformers_vision import pretrained as pretrained_vision


class ForeignFolder:
    """A folder that is read by transformers, whole: it needs as much memory as the model.

    Args:
        folder: Local.

    Raises:
        CheckpointError: There is no such folder, or no `config.json` in it.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        read_json(folder / "config.json")
        self.folder = folder

    @staticmethod
    def fits(slot: str, part: nn.Module) -> bool:
        """Whether a part can take its weights from such a folder."""
        return isinstance(part, TransformersLM | TransformersVision) or slot in ("embedder", "heads.lm")

    def weights(self, slot: str, part: nn.Module) -> dict[str, Lazy]:
        """Weights of a slot, without the slot's name; those that the part has taken out are left out.

        Raises:
            CheckpointError: transformers cannot read the folder.
        """
        try:
            whole = self._tower if isinstance(part, TransformersVision) else self._language_model
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        own = own_parameters(part)
        names = {name: name.removeprefix(f"{slot}.") for name in whole if name.startswith(f"{slot}.")}
        return {short: lazy(whole[name].detach()) for name, short in names.items() if short in own}

    @cached_property
    def _language_model(self) -> dict[str, Tensor]:
        found = pretrained_lm(self.folder)
        return {"heads.lm.weight": found["embedder.embedding.weight"], **found}  # a tied head is the word table

    @cached_property
    def _tower(self) -> dict[str, Tensor]:
        return pretrained_vision(self.folder)
