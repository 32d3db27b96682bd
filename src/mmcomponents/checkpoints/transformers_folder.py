"""Folders of models of other libraries: transformers, timm and open_clip, for the parts that wrap them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from mmcomponents.backbones import TransformersLM
from mmcomponents.backbones.transformers_lm import pretrained as pretrained_lm
from mmcomponents.checkpoints.adapter_weights import own_tensors
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.files import check_folder, read_file, read_json, read_weights
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.model_files import ModelFileError, check_model_files
from mmcomponents.vision import (
    Emu3Tokenizer,
    OpenClipVision,
    ResNet,
    TimmVision,
    TransformersConvNet,
    TransformersVision,
)
from mmcomponents.vision.transformers_vision import pretrained as pretrained_vision

_WITHIN = "vqmodel."
"""Part of a name in Emu3 before those of its image tokenizer."""

_PARTS = (TransformersLM, TransformersVision, TransformersConvNet, Emu3Tokenizer, TimmVision, OpenClipVision, ResNet)
"""Parts that load weights of such folders."""

_OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
"""Files of open_clip, which may lie beside those of transformers."""


class ForeignFolder:
    """Folder that another library reads as a complete model, which needs as much memory as the model.

    Args:
        folder: Local folder.

    Raises:
        CheckpointError: The folder or its `config.json` does not exist, or one of its files is not opened.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        configurations = [file for file in ("config.json", _OPEN_CLIP[0]) if (folder / file).exists()]
        self._config = read_json(folder / (configurations or ["config.json"])[0])
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
        return isinstance(part, _PARTS) or slot in ("embedder", "heads.lm")

    def weights(self, slot: str, part: nn.Module) -> dict[str, Lazy]:
        """Returns the weights of a slot, by names without the slot, except those that the part has removed.

        Raises:
            CheckpointError: The library cannot read the folder.
        """
        if isinstance(part, Emu3Tokenizer):
            return self._tokenizer(part)
        if isinstance(part, TimmVision | OpenClipVision):
            found, known = self._tower(part), own_tensors(part)
            return {name: lazy(value) for name, value in found.items() if name in known}
        if isinstance(part, ResNet):
            return self._resnet(part)
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

    def _resnet(self, part: ResNet) -> dict[str, Lazy]:
        """Returns the weights of a ResNet by torchvision's names, which timm's files have too."""
        found = read_weights(self.folder)
        missing = [name for name in own_tensors(part) if name not in found]
        if missing or (part.norm != "frozen_batch_norm" and "bn1.running_mean" in found):
            what = f"no {missing[0]}" if missing else f"batch norms, and the part has norm {part.norm!r}"
            raise CheckpointError(f"{self.folder} holds no weights of this ResNet: it has {what}")
        return {name: found[name] for name in own_tensors(part)}

    def _tower(self, part: TimmVision | OpenClipVision) -> dict[str, Tensor]:
        """Returns the weights of a tower of timm or open_clip."""
        try:
            if isinstance(part, OpenClipVision):
                file = self.folder / _OPEN_CLIP[1]
                stored = read_file(file) if file.exists() else read_weights(self.folder)
                return part.pretrained({name: value.load() for name, value in stored.items()})
            stored = read_weights(self.folder)
            classes = int(self._config.get("num_classes") or 0)
            return part.pretrained({name: value.load() for name, value in stored.items()}, classes)
        except ValueError as error:
            raise CheckpointError(f"{self.folder}: {error}") from error

    @cached_property
    def _language_model(self) -> dict[str, Tensor]:
        found = pretrained_lm(self.folder)
        return {"heads.lm.weight": found["embedder.embedding.weight"], **found}  # default for a tied head

    @cached_property
    def _vision(self) -> dict[str, Tensor]:
        return pretrained_vision(self.folder)
