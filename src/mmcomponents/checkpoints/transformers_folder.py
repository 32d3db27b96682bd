"""Folders of other models that transformers reads, for `TransformersLM`, `TransformersVision` and `Emu3Tokenizer`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from mmcomponents.backbones import TransformersLM
from mmcomponents.backbones.transformers_lm import pretrained as pretrained_lm
from mmcomponents.checkpoints.adapter_weights import own_tensors
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.files import check_folder, read_json, read_weights
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.model_files import ModelFileError, check_model_files
from mmcomponents.vision import Emu3Tokenizer, TransformersConvNet, TransformersVision
from mmcomponents.vision.transformers_vision import pretrained as pretrained_vision

_WITHIN = "vqmodel."
"""Part of a name in Emu3 before those of its image tokenizer."""


class ForeignFolder:
    """Folder that transformers reads as a complete model, which needs as much memory as the model.

    Args:
        folder: Local folder.

    Raises:
        CheckpointError: The folder or its `config.json` does not exist, or one of its files is not opened.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        read_json(folder / "config.json")
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(f"{folder} holds an adapter of peft: merge it into its model first")
        try:
            check_model_files(folder)
        except ModelFileError as error:
            raise CheckpointError(str(error)) from error
        self.folder = folder

    @staticmethod
    def fits(slot: str, part: nn.Module) -> bool:
        """Returns whether a part can load weights from such a folder."""
        return isinstance(part, TransformersLM | TransformersVision | TransformersConvNet | Emu3Tokenizer) or slot in (
            "embedder",
            "heads.lm",
        )

    def weights(self, slot: str, part: nn.Module) -> dict[str, Lazy]:
        """Returns the weights of a slot, by names without the slot, except those that the part has removed.

        Raises:
            CheckpointError: transformers cannot read the folder.
        """
        if isinstance(part, Emu3Tokenizer):
            return self._tokenizer(part)
        try:
            is_vision = isinstance(part, TransformersVision | TransformersConvNet)
            state = self._vision if is_vision else self._language_model
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        own = own_tensors(part)
        names = {name: name.removeprefix(f"{slot}.") for name in state if name.startswith(f"{slot}.")}
        return {short: lazy(state[name].detach()) for name, short in names.items() if short in own}

    def _tokenizer(self, part: Emu3Tokenizer) -> dict[str, Lazy]:
        """Returns the weights of an image tokenizer, which may be within a larger model."""
        found = {f"body.{name.rpartition(_WITHIN)[2]}": value for name, value in read_weights(self.folder).items()}
        return {name: value for name, value in found.items() if name in own_tensors(part)}

    @cached_property
    def _language_model(self) -> dict[str, Tensor]:
        found = pretrained_lm(self.folder)
        return {"heads.lm.weight": found["embedder.embedding.weight"], **found}  # default for a tied head

    @cached_property
    def _vision(self) -> dict[str, Tensor]:
        return pretrained_vision(self.folder)
