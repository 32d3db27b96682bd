"""Recipes: lookup, merging of a chain of `extends`, and resolution of interpolations.

A recipe is a YAML tree. `extends` names its base recipes; a recipe contains only the differences. The chain is merged
into one plain tree: mappings merge, everything else is replaced, and a changed `class_path` drops the arguments of the
class that it replaces. Interpolations (`${data.batch_size}`) are resolved last.

Merging calls no class. It imports one where its signature is needed: the data class that a recipe names, whose settings
may have former names, and a class in which an argument is set whose value is a class by default. All other classes are
imported when the merged recipe is checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcomponents.cli.recipes.expansion import Expansion
from mmcomponents.cli.recipes.merging import Tree, keys, merge, same_class
from mmcomponents.cli.recipes.reference_paths import plain_data
from mmcomponents.cli.recipes.sections import Sections
from mmcomponents.cli.user_error import UserError
from mmcomponents.moved import current_path
from mmcomponents.registry import near

_PACKAGE = Path(__file__).parents[2]
SHIPPED = (_PACKAGE / "_recipes", _PACKAGE.parents[1] / "recipes")
"""Folders of shipped recipes: of an installed wheel, and of a checkout in an editable installation."""

_MOST_FILES = 100
_MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000
"""Limits of a chain of `extends`, of a file, and of a resolved recipe: a few lines can expand to any size."""


@dataclass
class Recipe:
    """A merged tree, and for each key the file (or the command line) that set it last.

    Attributes:
        tree: Plain mappings, lists and scalars; interpolations still in place; the data section in its plain form.
        origins: Dotted key -> where it was set.
        data_class: Path of the data class; None if none is named.
        sections: What is known of the sections.
    """

    tree: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    data_class: str | None = None
    sections: Sections = field(default_factory=Sections)

    def overlay(self, delta: Tree, origin: str) -> Recipe:
        """Returns this recipe with the changes of `delta`.

        Raises:
            UserError: The data section of `delta` is not valid.
        """
        named, delta = self.sections.plain(delta, origin)
        recipe = self if named is None else self._with_data_class(named, origin)
        section = delta["data"] if isinstance(delta.get("data"), dict) else {}
        moved = recipe.moved if section else {}
        former = {f"data.{new}": f"{origin}, as data.{name}" for name, new in moved.items() if name in section}
        delta = self.sections.with_moved(delta, moved, origin)
        origins = {key: former.get(key, origin) for key in keys(delta)}
        return replace(
            recipe,
            tree=merge(recipe.tree, delta, recipe.default_class),
            origins={**recipe.origins, **origins},
        )

    def data_owner(self) -> type:
        """Returns the class of the data section.

        Raises:
            UserError: It cannot be imported, or is no datamodule.
        """
        name = self.sections.data_path if self.data_class is None else self.data_class
        return self.sections.data_class(name, self.place("data.class_path"))

    @property
    def moved(self) -> Mapping[str, str]:
        """Former names of settings of the data class, and their present paths."""
        return self.sections.moved_settings(self.data_class)

    def default_class(self, owner: str, argument: str) -> str | None:
        """Returns the class that an argument has by default, see `merging.DefaultClass`."""
        is_named = owner == "data" and self.data_class is not None
        return self.sections.default_class(str(self.data_class) if is_named else owner, argument)

    def plain(self) -> Recipe:
        """Returns this recipe with references to the data section as it is in the tree."""
        return replace(self, tree=plain_data(self.tree, self.moved))

    def _with_data_class(self, name: str, origin: str) -> Recipe:
        """Returns this recipe with another data class, without the arguments of the one that it replaces."""
        recipe = replace(self, data_class=name, origins={**self.origins, "data.class_path": origin})
        if same_class(self.data_class or self.sections.data_path, name):
            return recipe
        recipe.tree = {key: value for key, value in self.tree.items() if key != "data"}
        kept = {key: value for key, value in self.origins.items() if key.partition(".")[0] != "data"}
        recipe.origins = {**kept, "data.class_path": origin}
        return recipe

    def origin(self, key: str) -> str:
        """Returns where a key, or its nearest known parent, was set; empty if unknown."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key, "")

    def place(self, key: str) -> str:
        """Returns the origin of a key in parentheses, for a message; empty if unknown."""
        origin = self.origin(key)
        return f" ({origin})" if origin else ""

    def resolved(self) -> Tree:
        """Returns the tree with all interpolations resolved and former class paths replaced by their current ones.

        A head of a base recipe that is set to null is left out.

        Raises:
            UserError: An interpolation refers to a missing key, a mandatory value (`???`) is missing, or the tree is
                nested too deeply or becomes too large.
        """
        try:
            plain = self.plain().tree
            if Expansion(plain).size() > _MOST_VALUES:
                raise UserError(f"the recipe's interpolations expand to more than {_MOST_VALUES:,} values")
            tree = OmegaConf.to_container(OmegaConf.create(plain), resolve=True, throw_on_missing=True)
        except RecursionError:
            raise UserError("the recipe is nested too deeply") from None
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None) or ""
            where = self.origin(key)
            text = str(error).partition("\n")[0]
            wanted = re.search(r"[Ii]nterpolation key '([^']+)'", text)
            hint = near(wanted.group(1), keys(self.tree)) if wanted else ""
            raise UserError(f"{key}{f' ({where})' if where else ''}: {text}{hint}") from None
        found = cast(Tree, _current(tree))
        model = found.get("model")
        if isinstance(model, dict) and isinstance(heads := model.get("heads"), dict):
            model["heads"] = {name: head for name, head in heads.items() if head is not None}
        return found


def load(names: Iterable[str], sections: Sections | None = None) -> Recipe:
    """Loads recipes by path or shipped name and merges them; later ones take precedence.

    Args:
        names: Paths or names.
        sections: What is known of the sections; None: the data section is that of a `PackedDataModule`.
    """
    recipe = Recipe(sections=sections or Sections())
    read: list[Path] = []
    for name in names:
        recipe = _extend(recipe, _find(name, Path(), f"--config {name}"), (), read)
    return recipe


def shipped() -> list[str]:
    """Returns the names of the library's recipes, without ablations and bases, whose folders begin with `_`."""
    names = set()
    for root in SHIPPED:
        for file in root.rglob("*.yaml"):
            name = file.relative_to(root).with_suffix("")
            own = name.parts[0] == "ablations"
            if not own and not any(part.startswith("_") for part in name.parts):
                names.add(name.as_posix())
    return sorted(names)


def _extend(recipe: Recipe, file: Path, chain: tuple[Path, ...], read: list[Path]) -> Recipe:
    """Merges the bases of a file, then the file, into `recipe`; adds each file to `read`."""
    if file in chain:
        raise UserError(f"recipes extend each other in a cycle: {' -> '.join(map(_shown, [*chain, file]))}")
    read.append(file)
    if len(read) > _MOST_FILES:
        raise UserError(f"{_shown(read[0])}: the recipe extends more than {_MOST_FILES} files")
    tree = _read(file)
    parents = tree.pop("extends", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"{_shown(file)}: extends takes a recipe or a list of recipes, not {parents!r}")
    for parent in parents:
        recipe = _extend(recipe, _find(parent, file.parent, f"extends of {_shown(file)}"), (*chain, file), read)
    return recipe.overlay(tree, _shown(file))


def _find(name: str, folder: Path, reference: str) -> Path:
    """Returns the file of a recipe: a path relative to `folder`, with or without suffix, or a shipped name."""
    tried = [root / (name + suffix) for root in (folder, *SHIPPED) for suffix in ("", ".yaml")]
    try:
        for file in tried:
            if file.is_file():
                return file.resolve()
    except OSError as error:
        raise UserError(f"{reference}: {error.strerror}") from None
    beside = [path.with_suffix("").as_posix() for path in (folder / name).parent.glob("*.yaml")]
    hint = near(name, [*shipped(), *beside])
    raise UserError(
        f"{reference}: there is no recipe {name!r}{hint}; `mmcomponents recipes` lists those of the library"
    )


def _read(file: Path) -> Tree:
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise UserError(f"{_shown(file)} has {size:,} bytes; a recipe has at most {_MOST_BYTES:,}")
        events = yaml.parse(file.read_text(encoding="utf-8-sig"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if sum(1 for _ in islice(events, _MOST_VALUES + 1)) > _MOST_VALUES:  # reading stops there
            raise UserError(f"{_shown(file)} has more than {_MOST_VALUES:,} values")
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{_shown(file)} is nested too deeply") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(f"{_shown(file)} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in _flat(tree)):
        raise UserError(f"{_shown(file)}: a recipe is a mapping whose keys are names")
    return cast(Tree, tree)


def _flat(tree: Mapping[Any, Any]) -> Iterable[Any]:
    for key, value in tree.items():
        yield key
        if isinstance(value, dict):
            yield from _flat(value)


def _current(value: Any) -> Any:
    """Returns a tree with `current_path` of each class that has moved, and the home folder in paths in place of `~`."""
    if isinstance(value, dict):
        return {key: _current(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_current(item) for item in value]
    if isinstance(value, str):
        return os.path.expanduser(value) if value.startswith("~/") else current_path(value)
    return value


def _shown(file: Path) -> str:
    """Returns a path relative to the working directory if it is below it."""
    try:
        return file.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return file.as_posix()
