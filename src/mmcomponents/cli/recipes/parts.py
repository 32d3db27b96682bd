"""Short names of parts in a recipe."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

from mmcomponents import registry
from mmcomponents.cli.recipes.classes import argument_types, mentioned
from mmcomponents.cli.recipes.merging import Tree, same_class
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.storage.hub import HubError, is_hub_name, local_folder

OF_DATA = ("record_kind", "packer")
"""Slots whose parts are in the data section, as arguments of any name."""

INNER = ("text_encoder", "noise_schedule")
"""Slots whose parts are arguments of other parts."""

_TORCH = {"optimizer": "torch.optim", "scheduler": "torch.optim.lr_scheduler"}
"""Keys under `model` whose short names are those of torch, also where an installed package has such a class."""


def resolve_parts(tree: Tree, recipe: Recipe) -> None:
    """Replaces, in place, the short names of parts and of torch's optimizers under `model` by their dotted paths.

    Configurations that are named as models of the hub are downloaded into its cache, where constructors find them.

    Raises:
        UserError: No package has such a part, it cannot be imported, or it is not valid for its slot; the hub has no
            such model.
    """
    model = tree.get("model")
    if not isinstance(model, dict):
        return
    for slot in registry.slots():
        holder, prefix = (model.get("heads"), "model.heads") if slot == "head" else (model, "model")
        if isinstance(holder, dict) and slot not in (*OF_DATA, *INNER):
            for key in holder if slot == "head" else [slot]:
                if key in holder:
                    holder[key] = _resolved(holder[key], slot, f"{prefix}.{key}", recipe)
    for key, module in _TORCH.items():
        part = model.get(key)
        name = _name(part)
        if isinstance(name, str) and isinstance(getattr(importlib.import_module(module), name, None), type):
            path = f"{module}.{name}"
            model[key] = {**part, "class_path": path} if isinstance(part, dict) else path
    for key, part in model.items():
        _download_configurations(part, f"model.{key}", recipe)


def _download_configurations(part: Any, shown: str, recipe: Recipe) -> None:
    """Downloads the configurations that a part and the parts among its arguments name by the hub's names."""
    if not isinstance(part, dict):
        return
    arguments = part.get("init_args")
    name = arguments.get("config") if isinstance(arguments, dict) and "class_path" in part else None
    if isinstance(name, str) and is_hub_name(name):
        try:
            local_folder(name, weights=False)
        except HubError as error:
            raise UserError(f"{shown}.init_args.config{recipe.place(shown)}: {error}") from None
    for key, value in part.items():
        _download_configurations(value, f"{shown}.{key}", recipe)


def resolve_data_parts(section: Any, owner: type, recipe: Recipe, shown: str = "data") -> None:
    """Replaces, in place, the short names of parts among the arguments of a data class by their dotted paths.

    An argument takes the parts of a slot if its type mentions the slot's base class.

    Args:
        section: Arguments, such as the data section.
        owner: Class whose arguments they are.
        recipe: Recipe that holds the origins of keys.
        shown: Key of the arguments, for messages.

    Raises:
        UserError: No package has such a part, it cannot be imported, or it is not valid for its slot.
    """
    if not isinstance(section, dict):
        return
    types = argument_types(owner)
    for key, value in section.items():
        hint = types.get(key, Any)
        for group in mentioned(hint):
            if isinstance(group, type) and is_dataclass(group):
                resolve_data_parts(value, group, recipe, f"{shown}.{key}")
        for slot in _slots(hint):
            if list in mentioned(hint) and not isinstance(value, list | None):
                where = f"{shown}.{key}{recipe.place(f'{shown}.{key}')}"
                raise UserError(f"{where}: a list is expected, such as [{_name(value)}]")
            if isinstance(value, list):
                section[key] = [_resolved(item, slot, f"{shown}.{key}", recipe) for item in value]
            else:
                section[key] = _resolved(value, slot, f"{shown}.{key}", recipe)


def _name(part: Any) -> Any:
    return part.get("class_path") if isinstance(part, dict) else part


def _slots(hint: Any) -> Iterator[str]:
    """Yields the slot whose base class a type mentions."""
    classes = [f"{kind.__module__}.{kind.__qualname__}" for kind in mentioned(hint) if isinstance(kind, type)]
    bases = registry.slots()
    yield from (slot for slot in OF_DATA if any(same_class(bases[slot], path) for path in classes))


def _resolved(part: Any, slot: str, shown: str, recipe: Recipe) -> Any:
    """Returns a part with the dotted path of its class; another value is returned as it is."""
    if not isinstance(part, str | dict | None):
        what = "the name of a class, or a mapping with class_path and init_args, is expected"
        raise UserError(f"{shown}{recipe.place(shown)}: {what}, not {json.dumps(part)}")
    name = _name(part)
    if name is None:
        return part
    try:
        path = registry.resolve(slot, str(name))
        registry.load(slot, path)
    except registry.PartError as error:
        raise UserError(f"{shown}{recipe.place(shown)}: {error}") from None
    return _with_inner({**part, "class_path": path}) if isinstance(part, dict) else {"class_path": path}


def _with_inner(value: Any) -> Any:
    """Returns a value in which the short names of parts, at any depth, are dotted paths; the parser reports others."""
    if isinstance(value, list):
        return [_with_inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_inner(item) for key, item in value.items()}
    if isinstance(name := found.get("class_path"), str):
        with suppress(registry.PartError):
            found["class_path"] = registry.find(name)
    return found
