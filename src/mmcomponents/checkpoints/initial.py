"""Weights that a run starts from: all of a model's, or those of some slots."""

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
from mmcomponents.checkpoints.adapters import own_parameters
from mmcomponents.checkpoints.causal_lm import CausalLM
from mmcomponents.checkpoints.checkpoint import Checkpoint, meta_model, read
from mmcomponents.checkpoints.decoder import rope_base
from mmcomponents.checkpoints.errors import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.files import read_json
from mmcomponents.checkpoints.foreign import ForeignFolder
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.component import Component
from mmcomponents.heads import LMHead, Verbalizer
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.vision import TransformersVision

log = logging.getLogger(__name__)

_TOLD = 6
"""Settings that differ, told at most."""

Folders = str | Path | Mapping[str, str | Path]
"""One folder for the whole model, or a folder for each slot by its name."""


def check_initial(folders: Folders) -> None:
    """Refuses folders that are missing or unknown, before anything is built.

    Raises:
        CheckpointError: In one line.
    """
    for path in dict.fromkeys(map(str, folders.values() if isinstance(folders, Mapping) else [folders])):
        _open(path)


@torch.no_grad()
def load_initial(model: MultimodalModel, folders: Folders) -> None:
    """Copies weights into a model, which may be sharded: tensor by tensor, each rank keeping its own piece.

    With one folder, a slot that holds a part of another class than the folder's model keeps its first draw, and so does
    one that the folder has not: so one part is swapped and the others stay trained. `TransformersLM` and
    `TransformersVision` take any folder that transformers reads, and so do the words beside them. Where a word table
    has another number of rows, the rows that both have are copied; further rows of a head become the mean of those that
    it was given, as InternVL's own training does for tokens that are added, and further rows of the table keep their
    draw.

    Args:
        model: Its weights are drawn.
        folders: Of any format that `read` knows, or that transformers does.

    Raises:
        CheckpointError: A folder is wrong, has not what a slot asks for, or nothing fits.
    """
    parts = model.parts()
    chosen: dict[str, Checkpoint | ForeignFolder]
    if isinstance(folders, Mapping):
        slots = list(dict.fromkeys(name.partition(".")[0] for name in parts))
        if unknown := sorted(set(folders) - set(slots)):
            raise CheckpointError(f"weights are given for {', '.join(unknown)}; the slots are {', '.join(slots)}")
        opened = {path: _open(path) for path in dict.fromkeys(map(str, folders.values()))}
        chosen = {name: opened[str(folders[slot])] for name in parts if (slot := name.partition(".")[0]) in folders}
    else:
        whole = _open(folders)
        chosen = dict.fromkeys(_fitting(model, whole), whole)
        left = [name for name in parts if name not in chosen and any(True for _ in parts[name].parameters())]
        if left:
            log.warning("%s has no weights for %s: drawn anew", whole.folder, ", ".join(left))
    if not any(any(True for _ in parts[name].parameters()) for name in chosen):
        raise CheckpointError(f"{folders} has no part in common with the model")
    if "backbone" in chosen:
        _compare_base(model, chosen["backbone"])
    _compare_settings(parts, chosen)
    for name, part in parts.items():
        if name in chosen and not getattr(part, "is_tied", False):
            _copy(name, part, chosen[name])


def _compare_settings(parts: Mapping[str, Component], chosen: Mapping[str, Checkpoint | ForeignFolder]) -> None:
    """Tells where weights fit and are used otherwise than in training: the number of heads, eps, a merger's order.

    All plain attributes of modules that both models have under one name are compared, whether a head is tied included.
    """
    told = []
    for folder in {id(value): value for value in chosen.values() if isinstance(value, Checkpoint)}.values():
        theirs = meta_model(folder.spec).parts()
        for name in (n for n, other in chosen.items() if other is folder and n in theirs):
            others: dict[str, nn.Module] = dict(theirs[name].named_modules())
            for inner, module in parts[name].named_modules():
                same = others.get(inner)
                if same is None or isinstance(module, DropPath) or _own_class(module) is not type(same):
                    continue
                ours, given = _plain(module), _plain(same)
                place = re.sub(r"\d+", "*", f"{name}.{inner}").rstrip(".")  # the same of all layers is told once
                told += [
                    f"{place}: {key} is {ours[key]!r}, was {given[key]!r}"
                    for key in ours
                    if ours[key] != given.get(key, ours[key])
                ]
    told = list(dict.fromkeys(told))
    for line in told[:_TOLD]:
        log.warning("weights were trained with other settings: %s", line)
    if len(told) > _TOLD:
        log.warning("and %d more settings differ", len(told) - _TOLD)


def _plain(module: nn.Module) -> dict[str, int | float | str | None]:
    """What a module holds beside tensors and modules, and what says nothing of how its weights are used left out."""
    kept = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and not k.startswith("_")}
    return {k: v for k, v in kept.items() if k not in ("training", "backend", "layer_scale", "num_embeddings")}


def _compare_base(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> None:
    """Weights of a backbone are worth little with another rotary base than they were trained with."""
    ours = getattr(model.position, "base", None)
    if isinstance(folder, Checkpoint):
        position = folder.spec.parts.get("position") or {}
        theirs = (position.get("init_args") or {}).get("base")
    else:
        theirs = rope_base(read_json(folder.folder / "config.json"))
    if ours is not None and theirs is not None and ours != theirs:
        log.warning("the position part has the base %g and %s was trained with %g", ours, folder.folder, theirs)


def _open(path: str | Path) -> Checkpoint | ForeignFolder:
    try:
        return read(path)
    except UnknownFormatError:
        return ForeignFolder(Path(path))


def _fitting(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> list[str]:
    """Slots that find their weights in a folder."""
    parts = model.parts().items()
    if isinstance(folder, ForeignFolder):
        return [name for name, part in parts if folder.fits(name, part)]
    theirs = meta_model(folder.spec).parts()
    wraps = (TransformersLM,) if isinstance(folder.format, CausalLM) else ()
    return [name for name, part in parts if _same_weights(part, theirs.get(name)) or isinstance(part, wraps)]


def _same_weights(ours: nn.Module, theirs: nn.Module | None) -> bool:
    """Whether two parts have the same weights: they are of one class, or a critic's head and a language model's."""
    kinds = {_own_class(ours), type(theirs)}
    return len(kinds) == 1 or kinds == {LMHead, Verbalizer}


def _own_class(part: nn.Module) -> type:
    """Sharding gives a part a class that is made for it, over its own."""
    return next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))


def _copy(slot: str, part: nn.Module, folder: Checkpoint | ForeignFolder) -> None:
    """Fills one part."""
    source, own = _source_of(slot, part, folder), own_parameters(part)
    for name, parameter in own.items():
        stored = source.get(name)
        if stored is None:
            raise CheckpointError(f"{folder.folder} has no weights {slot}.{name}")
        have, want = stored.meta.shape, parameter.shape
        words = slot == "embedder" or slot.startswith("heads.")
        if have != want and not (words and len(have) == 2 == len(want) and have[1] == want[1]):
            raise CheckpointError(f"{folder.folder}: {slot}.{name} is {list(have)}, the model has {list(want)}")
        value = stored.load().to(parameter.dtype)
        if have != want:
            value = _with_rows(slot, value, parameter)
        put(parameter, value)
    surplus = sorted(set(source) - set(own))
    if surplus:
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise CheckpointError(f"{folder.folder} has {slot}.{surplus[0]}{more} beyond the model")


def _source_of(slot: str, part: nn.Module, folder: Checkpoint | ForeignFolder) -> dict[str, Lazy]:
    """The weights of a slot. A head that is tied in the folder is the word table."""
    if isinstance(folder, ForeignFolder):
        return folder.weights(slot, part)
    if isinstance(part, TransformersLM | TransformersVision) and not isinstance(folder.format, Native):
        return ForeignFolder(folder.folder).weights(slot, part)  # our names are those of our own parts
    prefix = f"{slot}."
    found = {n.removeprefix(prefix): w for n, w in folder.weights.items() if n.startswith(prefix)}
    table = folder.weights.get("embedder.embedding.weight")
    if not found and slot == "heads.lm" and table is not None:
        return {"weight": table}
    return found


def _with_rows(slot: str, value: Tensor, parameter: Tensor) -> Tensor:
    rows, wanted = value.shape[0], parameter.shape[0]
    log.warning("%s: %d rows are given and the model has %d", slot, rows, wanted)
    if wanted <= rows:
        return value[:wanted]
    if slot == "embedder":
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        return torch.cat((value, whole[rows:].to(value.device)))
    return torch.cat((value, value.float().mean(0, keepdim=True).to(value.dtype).expand(wanted - rows, -1)))


def put(parameter: Tensor, value: Tensor) -> None:
    """Copies a whole value into a tensor, which may be sharded."""
    if isinstance(parameter, DTensor):
        # Each rank has read the same value and keeps its own piece: nothing is sent.
        local = value.to(parameter.device)
        parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(value)
