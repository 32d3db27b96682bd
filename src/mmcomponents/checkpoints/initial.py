"""Loading of initial weights into a model, for all slots or some of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mmcomponents.backbones import TransformersLM
from mmcomponents.checkpoints.adapter_weights import own_tensors
from mmcomponents.checkpoints.causal_lm import CausalLM
from mmcomponents.checkpoints.checkpoint import Checkpoint, meta_model, read
from mmcomponents.checkpoints.checkpoint_error import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.decoder_families import rope_base
from mmcomponents.checkpoints.files import read_json
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.transformers_folder import ForeignFolder
from mmcomponents.component import Component
from mmcomponents.heads import LMHead, Verbalizer
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.vision import TransformersVision

log = logging.getLogger(__name__)

_MAX_WARNINGS = 6
"""Maximum number of differing settings to log."""

Folders = str | Path | Mapping[str, str | Path]
"""Folder of the complete model, or folders by slot name."""


def check_initial(folders: Folders, *, trust_remote_code: bool = False) -> None:
    """Checks that folders exist and have known formats, before the model is built.

    Args:
        folders: See `load_initial`.
        trust_remote_code: See `load_initial`.

    Raises:
        CheckpointError: A folder is missing or unknown; the message is one line.
    """
    for path in dict.fromkeys(map(str, folders.values() if isinstance(folders, Mapping) else [folders])):
        _open(path, trust_remote_code)


@torch.no_grad()
def load_initial(model: MultimodalModel, folders: Folders, *, trust_remote_code: bool = False) -> None:
    """Copies weights into a model, which may be sharded: tensor by tensor, each rank keeping its own shard.

    With a single folder, slots whose part has another class than in the folder's model, or that the folder lacks, keep
    their random initialisation: one part can be replaced while the others keep trained weights. `TransformersLM` and
    `TransformersVision` load any folder that transformers reads, as do the embedder and the head `lm`. If the
    vocabulary sizes differ, the common rows of embedding and head weights are copied. Further rows of a head are set to
    the mean of the copied rows, as InternVL's training does for added tokens; further rows of the embedding weight keep
    their random initialisation.

    Args:
        model: Model with initialised weights.
        folders: Folders of any format that `read` or transformers supports.
        trust_remote_code: Whether a native folder may name third-party classes by dotted path, which are then imported.

    Raises:
        CheckpointError: A folder is wrong, lacks weights of a slot, has weights that are not finite, or has no part in
            common with the model.
    """
    parts = model.parts()
    chosen: dict[str, Checkpoint | ForeignFolder]
    if isinstance(folders, Mapping):
        slots = list(dict.fromkeys(name.partition(".")[0] for name in parts))
        if unknown := sorted(set(folders) - set(slots)):
            raise CheckpointError(f"weights are given for {', '.join(unknown)}; the slots are {', '.join(slots)}")
        opened = {path: _open(path, trust_remote_code) for path in dict.fromkeys(map(str, folders.values()))}
        chosen = {name: opened[str(folders[slot])] for name in parts if (slot := name.partition(".")[0]) in folders}
    else:
        folder = _open(folders, trust_remote_code)
        chosen = dict.fromkeys(_fitting(model, folder), folder)
        left = [name for name in parts if name not in chosen and any(True for _ in parts[name].parameters())]
        if left:
            log.warning("%s has no weights for %s: initialised randomly", folder.folder, ", ".join(left))
    if not any(any(True for _ in parts[name].parameters()) for name in chosen):
        raise CheckpointError(f"{folders} has no part in common with the model")
    if "backbone" in chosen:
        _compare_base(model, chosen["backbone"])
    _compare_settings(parts, chosen)
    for name, part in parts.items():
        if name in chosen and not getattr(part, "is_tied", False):
            _copy(name, part, chosen[name])


def _compare_settings(parts: Mapping[str, Component], chosen: Mapping[str, Checkpoint | ForeignFolder]) -> None:
    """Warns if matching weights are used with other settings than in training: number of heads, eps, merger order.

    Compares all plain attributes of modules with the same name in both models, including whether a head is tied.
    """
    differences = []
    for folder in {id(value): value for value in chosen.values() if isinstance(value, Checkpoint)}.values():
        theirs = meta_model(folder.spec).parts()
        for name in (n for n, other in chosen.items() if other is folder and n in theirs):
            others: dict[str, nn.Module] = dict(theirs[name].named_modules())
            for inner, module in parts[name].named_modules():
                same = others.get(inner)
                if same is None or isinstance(module, DropPath) or own_class(module) is not type(same):
                    continue
                ours, given = _plain(module), _plain(same)
                path = re.sub(r"\d+", "*", f"{name}.{inner}").rstrip(".")  # one warning for all layers
                differences += [
                    f"{path}: {key} is {ours[key]!r}, was {given[key]!r}"
                    for key in ours
                    if ours[key] != given.get(key, ours[key])
                ]
    differences = list(dict.fromkeys(differences))
    for line in differences[:_MAX_WARNINGS]:
        log.warning("weights were trained with other settings: %s", line)
    if len(differences) > _MAX_WARNINGS:
        log.warning("and %d more settings differ", len(differences) - _MAX_WARNINGS)


def _plain(module: nn.Module) -> dict[str, int | float | str | None]:
    """Returns the plain attributes of a module, except those that do not affect how its weights are used."""
    kept = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and not k.startswith("_")}
    return {k: v for k, v in kept.items() if k not in ("training", "backend", "layer_scale", "num_embeddings")}


def _compare_base(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> None:
    """Warns if a backbone was trained with another rotary base, with which its weights are of little use."""
    ours = getattr(model.position, "base", None)
    if isinstance(folder, Checkpoint):
        position = folder.spec.parts.get("position") or {}
        theirs = (position.get("init_args") or {}).get("base")
    else:
        theirs = rope_base(read_json(folder.folder / "config.json"))
    if ours is not None and theirs is not None and ours != theirs:
        log.warning("the position part has the base %g and %s was trained with %g", ours, folder.folder, theirs)


def _open(path: str | Path, trust_remote_code: bool = False) -> Checkpoint | ForeignFolder:
    try:
        return read(path, trust_remote_code=trust_remote_code)
    except UnknownFormatError:
        return ForeignFolder(Path(path))


def _fitting(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> list[str]:
    """Returns the slots whose weights a folder has."""
    parts = model.parts().items()
    if isinstance(folder, ForeignFolder):
        return [name for name, part in parts if folder.fits(name, part)]
    theirs = meta_model(folder.spec).parts()
    wraps = (TransformersLM,) if isinstance(folder.format, CausalLM) else ()
    return [name for name, part in parts if _same_weights(part, theirs.get(name)) or isinstance(part, wraps)]


def _same_weights(ours: nn.Module, theirs: nn.Module | None) -> bool:
    """Returns whether two parts have the same weights: the same class, or `LMHead` and `Verbalizer`."""
    kinds = {own_class(ours), type(theirs)}
    return len(kinds) == 1 or kinds == {LMHead, Verbalizer}


def own_class(part: nn.Module) -> type:
    """Returns the original class of a part; FSDP2 changes the class of sharded parts."""
    return next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))


def _copy(slot: str, part: nn.Module, folder: Checkpoint | ForeignFolder) -> None:
    """Copies weights into one part."""
    source, own = _source_of(slot, part, folder), own_tensors(part)
    for name, parameter in own.items():
        stored = source.get(name)
        if stored is None:
            raise CheckpointError(f"{folder.folder} has no weights {slot}.{name}")
        have, want = stored.meta.shape, parameter.shape
        has_vocab = slot == "embedder" or slot.startswith("heads.")
        if have != want and not (has_vocab and len(have) == 2 == len(want) and have[1] == want[1]):
            raise CheckpointError(f"{folder.folder}: {slot}.{name} is {list(have)}, the model has {list(want)}")
        value = stored.load().to(parameter.dtype)
        check_finite(f"{folder.folder}", f"{slot}.{name}", value)
        if have != want:
            value = _resized(slot, value, parameter)
        put(parameter, value)
    surplus = sorted(set(source) - set(own))
    if surplus:
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise CheckpointError(f"{folder.folder} has {slot}.{surplus[0]}{more} beyond the model")


def _source_of(slot: str, part: nn.Module, folder: Checkpoint | ForeignFolder) -> dict[str, Lazy]:
    """Returns the weights of a slot. For a head that is tied in the folder, this is the embedding weight."""
    if isinstance(folder, ForeignFolder):
        return folder.weights(slot, part)
    if isinstance(part, TransformersLM | TransformersVision) and not isinstance(folder.format, Native):
        return ForeignFolder(folder.folder).weights(slot, part)  # `folder.weights` has the names of other parts
    prefix = f"{slot}."
    found = {n.removeprefix(prefix): w for n, w in folder.weights.items() if n.startswith(prefix)}
    embedding = folder.weights.get("embedder.embedding.weight")
    if not found and slot == "heads.lm" and embedding is not None:
        return {"weight": embedding}
    return found


def _resized(slot: str, value: Tensor, parameter: Tensor) -> Tensor:
    """Returns the value resized to the parameter's vocabulary size."""
    size, wanted = value.shape[0], parameter.shape[0]
    log.warning("%s: the vocabulary size is %d in the folder and %d in the model", slot, size, wanted)
    if wanted <= size:
        return value[:wanted]
    if slot == "embedder":
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        return torch.cat((value, full[size:].to(value.device)))
    return torch.cat((value, value.float().mean(0, keepdim=True).to(value.dtype).expand(wanted - size, -1)))


def put(parameter: Tensor, value: Tensor) -> None:
    """Copies a full value into a tensor, which may be sharded."""
    if isinstance(parameter, DTensor):
        # Each rank has read the same value and keeps its own shard: no communication.
        local = value.to(parameter.device)
        parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(value)
