"""Recipes: lookup, merging of a chain of `extends`, and resolution of interpolations.

A recipe is a YAML tree. `extends` names its base recipes; a recipe contains only the differences. The chain is merged
into one plain tree before any class is imported: mappings merge, everything else is replaced, and a changed
`class_path` drops the arguments of the class that it replaces. Interpolations (`${data.batch_size}`) are resolved last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcomponents.cli.recipes.expansion import Expansion
from mmcomponents.cli.user_error import UserError
from mmcomponents.moved import current_path
from mmcomponents.registry import near

Tree = dict[str, Any]

_PACKAGE = Path(__file__).parents[2]
SHIPPED = (_PACKAGE / "_recipes", _PACKAGE.parents[1] / "recipes")
"""Folders of shipped recipes: of an installed wheel, and of a checkout in an editable installation."""

# A dotted path, or a short name, which begins with a capital: `ddp` and `auto` are plain values.
_CLASS_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+|[A-Z]\w*")

_MOST_FILES = 100
_MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000
"""Limits of a chain of `extends`, of a file, and of a resolved recipe: a few lines can expand to any size."""


@dataclass
class Recipe:
    """A merged tree, and for each key the file (or the command line) that set it last.

    Attributes:
        tree: Plain mappings, lists and scalars; interpolations still in place.
        origins: Dotted key -> where it was set.
    """

    tree: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def overlay(self, delta: Tree, origin: str) -> Recipe:
        """Returns this recipe with the changes of `delta`."""
        return Recipe(merge(self.tree, delta), {**self.origins, **dict.fromkeys(_keys(delta), origin)})

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

        Raises:
            UserError: An interpolation refers to a missing key, a mandatory value (`???`) is missing, or the tree is
                nested too deeply or becomes too large.
        """
        try:
            if Expansion(self.tree).size() > _MOST_VALUES:
                raise UserError(f"the recipe's interpolations expand to more than {_MOST_VALUES:,} values")
            tree = OmegaConf.to_container(OmegaConf.create(self.tree), resolve=True, throw_on_missing=True)
        except RecursionError:
            raise UserError("the recipe is nested too deeply") from None
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None) or ""
            where = self.origin(key)
            text = str(error).partition("\n")[0]
            wanted = re.search(r"[Ii]nterpolation key '([^']+)'", text)
            hint = near(wanted.group(1), _keys(self.tree)) if wanted else ""
            raise UserError(f"{key}{f' ({where})' if where else ''}: {text}{hint}") from None
        return cast(Tree, _current(tree))


def load(names: Iterable[str]) -> Recipe:
    """Loads recipes by path or shipped name and merges them; later ones take precedence."""
    recipe = Recipe()
    read: list[Path] = []
    for name in names:
        recipe = _extend(recipe, _find(name, Path(), f"--config {name}"), (), read)
    return recipe


def merge(base: Tree, delta: Tree) -> Tree:
    """Returns a new tree: `base` updated by `delta`.

    Mappings merge key by key. A part is a mapping with `class_path`, or just the name of its class. A different class
    replaces the complete part, the same class keeps its arguments. Anything else, including lists, is replaced.
    """
    if "class_path" in delta and "class_path" in base and not same_class(base["class_path"], delta["class_path"]):
        return dict(_copy(delta))
    merged = dict(base)
    for key, new in delta.items():
        old = merged.get(key)
        if isinstance(old, str) and _is_part(new) and "class_path" not in new:
            old = {"class_path": old}
        if _is_part(old) and isinstance(new, str) and _CLASS_NAME.fullmatch(new):
            new = {"class_path": new}
        merged[key] = merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else _copy(new)
    return merged


def shipped() -> list[str]:
    """Returns the names of the recipes that come with the library, without bases, whose folders begin with `_`."""
    names = set()
    for root in SHIPPED:
        for file in root.rglob("*.yaml"):
            name = file.relative_to(root).with_suffix("")
            if not any(part.startswith("_") for part in name.parts):
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
    known = shipped()
    listing = f"; shipped recipes: {', '.join(known)}" if known else ""
    raise UserError(f"{reference}: there is no recipe {name!r}{near(name, [*known, *beside])}{listing}")


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


def _keys(tree: Tree, prefix: str = "") -> Iterable[str]:
    """Yields the dotted names of all nodes."""
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _is_part(node: Any) -> bool:
    return isinstance(node, dict) and ("class_path" in node or "init_args" in node)


def same_class(old: Any, new: Any) -> bool:
    """Whether two names refer to the same class: a short name matches any path, and `a.X` matches `a.b.X`."""
    first, second = str(old).split("."), str(new).split(".")
    return first[-1] == second[-1] and (len(first) == 1 or len(second) == 1 or first[0] == second[0])


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _current(value: Any) -> Any:
    """Returns a tree with `current_path` of each class that has moved."""
    if isinstance(value, dict):
        return {key: _current(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_current(item) for item in value]
    return current_path(value) if isinstance(value, str) else value


def _shown(file: Path) -> str:
    """Returns a path relative to the working directory if it is below it."""
    try:
        return file.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return file.as_posix()
