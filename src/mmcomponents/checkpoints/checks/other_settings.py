"""Warnings where weights are used with other settings than those that they were trained with."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping

from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmcomponents.checkpoints.checkpoint import Checkpoint, meta_model
from mmcomponents.checkpoints.decoder_families import rope_base
from mmcomponents.checkpoints.files import read_json
from mmcomponents.checkpoints.transformers_folder import ForeignFolder
from mmcomponents.component import Component
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.drop_path import DropPath

log = logging.getLogger(__name__)

_MAX_WARNINGS = 6
"""Maximum number of differing settings to log."""


def compare_settings(parts: Mapping[str, Component], chosen: Mapping[str, Checkpoint | ForeignFolder]) -> None:
    """Warns if matching weights are used with other settings than in training: number of heads, eps, merger order.

    Compares all plain attributes of modules with the same name in both models, including whether a head is tied.

    Args:
        parts: Parts of the model.
        chosen: Name of a part -> folder that it takes its weights from.
    """
    differences = []
    for folder in {id(value): value for value in chosen.values() if isinstance(value, Checkpoint)}.values():
        theirs = meta_model(folder.spec).parts()
        for name in (n for n, other in chosen.items() if other is folder):
            source = theirs.get(name) or theirs.get(name.partition(".")[0])
            others: dict[str, nn.Module] = {} if source is None else dict(source.named_modules())
            for inner, module in parts[name].named_modules():
                same = others.get(_source_path(parts[name], inner, module, source))
                if same is None or isinstance(module, DropPath) or own_class(module) is not type(same):
                    continue
                ours, given = _plain(module), _plain(same)
                path = re.sub(r"\d+", "*", f"{name}.{inner}").rstrip(".")  # one warning for all layers
                differences += [
                    f"{path}: {key} is {ours[key]!r}, was {given[key]!r}"
                    for key in ours
                    if not _same(ours[key], given.get(key, ours[key]))
                ]
    differences = list(dict.fromkeys(differences))
    for line in differences[:_MAX_WARNINGS]:
        log.warning("weights were trained with other settings: %s", line)
    if len(differences) > _MAX_WARNINGS:
        log.warning("and %d more settings differ", len(differences) - _MAX_WARNINGS)


def _source_path(part: Component, path: str, module: nn.Module, source: nn.Module | None) -> str:
    """Returns the path in the folder's part of a module, by the name of one of its parameters there."""
    first = next((name for name, _ in module.named_parameters()), None)
    if first is None or source is None or own_class(part) is type(source):
        return path
    here = f"{path}.{first}" if path else first
    there = part.source_names(here)[-1]
    return there.removesuffix(first).rstrip(".") if there.endswith(first) else path


def _same(one: int | float | str | None, other: int | float | str | None) -> bool:
    """Compares two settings; a float in fp32, as files of weights (GGUF) store some."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _plain(module: nn.Module) -> dict[str, int | float | str | None]:
    """Returns the plain attributes of a module, except those that do not affect how its weights are used."""
    kept = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and not k.startswith("_")}
    unused = ("training", "backend", "layer_scale", "num_embeddings", *getattr(module, "files", ()))
    return {k: v for k, v in kept.items() if k not in unused}


def compare_base(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> None:
    """Warns if a backbone was trained with another rotary base, with which its weights are of little use."""
    ours = getattr(model.position, "base", None)
    if isinstance(folder, Checkpoint):
        position = folder.spec.parts.get("position") or {}
        theirs = (position.get("init_args") or {}).get("base")
    else:
        theirs = rope_base(read_json(folder.folder / "config.json"))
    if ours is not None and theirs is not None and ours != theirs:
        log.warning("the position part has the base %g and %s was trained with %g", ours, folder.folder, theirs)


def own_class(part: nn.Module) -> type:
    """Returns the original class of a part; FSDP2 changes the class of sharded parts."""
    return next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))
