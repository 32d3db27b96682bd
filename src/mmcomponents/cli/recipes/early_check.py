"""Checks of a command line against sources, before torch is imported: most mistakes are reported in a moment.

Whatever cannot be decided without an import is left to the complete check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmcomponents import registry
from mmcomponents.class_source import arguments_of, class_source
from mmcomponents.cli.recipes.check import refuse_unknown
from mmcomponents.cli.recipes.flags import apply, sort_flags
from mmcomponents.cli.recipes.merging import Tree
from mmcomponents.cli.recipes.recipe import Recipe, load
from mmcomponents.cli.recipes.sections import Sections
from mmcomponents.cli.user_error import UserError
from mmcomponents.moved import FORMER_SETTINGS, current_path

TRAINER_VERBS = ("fit", "validate", "test", "predict")
"""Verbs whose options are the keys of a recipe."""

TASK, TRAINER = "mmcomponents.training.MultimodalTask", "lightning.pytorch.Trainer"
DATA = "mmcomponents.data.datamodule.PackedDataModule"

_PASSED = ("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
"""Arguments of the Trainer's methods that are no keys of a recipe."""


class _FromSources(Sections):
    """Sections whose classes are not imported: which class an argument has by default is not known."""

    def default_class(self, owner: str, argument: str) -> str | None:
        return None

    def moved_settings(self, data_class: str | None) -> Mapping[str, str]:
        return FORMER_SETTINGS if data_class is None else {}


def merged_tree(configs: list[str]) -> Tree:
    """Returns recipes merged with those that they extend, interpolations and defaults apart.

    Raises:
        UserError: A recipe is unknown or broken.
    """
    return load(configs, _FromSources()).tree


def recipe_of(configs: Iterable[str], settings: Iterable[tuple[str, str]]) -> Recipe:
    """Returns merged recipes with settings of a command line.

    Raises:
        UserError: A recipe or a setting is unknown or broken.
    """
    return apply(load(configs, _FromSources()), list(settings))


def check_command(verb: str, argv: list[str]) -> None:
    """Checks the recipes of a command, and the keys of recipes and flags of a verb of the Trainer.

    Args:
        verb: Name of the verb.
        argv: Words after the verb.

    Raises:
        UserError: A recipe, a part or a key is unknown.
    """
    if {"-h", "--help"} & {*argv}:
        return
    if verb not in TRAINER_VERBS:  # has options of its own
        load(_configs(argv), _FromSources())
        return
    flags = sort_flags(argv)
    if flags.requests:
        return
    if not flags.configs:
        raise UserError(f"{verb} needs --config RECIPE; `mmcomponents recipes` lists those of the library")
    _check_keys(verb, recipe_of(flags.configs, flags.settings))


def keys_of(verb: str) -> list[str]:
    """Returns the keys of recipes that a verb of the Trainer accepts, to two levels."""
    keys = ["seed_everything", *_of_verb(verb)]
    for section, path in (("model", TASK), ("data", DATA), ("trainer", TRAINER)):
        keys += [f"{section}.{name}" for name in _named(path)]
    return keys


def _configs(argv: list[str]) -> Iterator[str]:
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name in ("--config", "-c") and (value or following):
            yield value if equals else following


def _check_keys(verb: str, recipe: Recipe) -> None:
    sections = {"model": TASK, "trainer": TRAINER} | ({} if recipe.data_class else {"data": DATA})
    refuse_unknown(recipe.tree, ["seed_everything", "model", "data", "trainer", *_of_verb(verb)], "", recipe)
    for section, path in sections.items():
        tree = recipe.tree.get(section)
        if isinstance(tree, dict):
            names = _named(path)
            if names:
                refuse_unknown(tree, names, f"{section}.", recipe, recipe.moved if section == "data" else {})
    model = recipe.tree.get("model")
    if not isinstance(model, dict):
        return
    for slot in registry.slots():
        if slot in model and slot in _named(TASK):
            _check_part(model[slot], slot, f"model.{slot}", recipe)
    heads = model.get("heads")
    for name, part in heads.items() if isinstance(heads, dict) else ():
        _check_part(part, "head", f"model.heads.{name}", recipe)


def _check_part(part: Any, slot: str, key: str, recipe: Recipe) -> None:
    """Checks name and arguments of a part."""
    name = part.get("class_path") if isinstance(part, dict) else part
    if not isinstance(name, str) or "${" in name:
        return
    try:
        path = current_path(registry.resolve(slot, name))
    except registry.PartError as error:
        raise UserError(f"{key}{recipe.place(key)}: {error}") from None
    arguments: Tree = (part.get("init_args") or {}) if isinstance(part, dict) else {}
    accepted = arguments_of(path)
    if accepted is not None and isinstance(arguments, dict):
        refuse_unknown(arguments, accepted, f"{key}.init_args.", recipe)


def _of_verb(verb: str) -> list[str]:
    return [name for name in arguments_of(TRAINER, verb) or () if name not in _PASSED]


def _named(path: str) -> list[str]:
    """Returns the named arguments of a class's own constructor; none if they are not known."""
    found = class_source(path)
    method = found.method("__init__") if found else None
    return [] if method is None else [a.arg for a in (*method.args.args, *method.args.kwonlyargs)][1:]
