"""What an ablation consists of: variants of a recipe, seeds and tests, from a YAML file and flags."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcomponents.cli.recipes.flags import given_keys
from mmcomponents.cli.recipes.recipe import SHIPPED
from mmcomponents.cli.user_error import UserError, near_file
from mmcomponents.registry import near

FOLDER = "ablations"
"""Folder of the library's ablations, beside its recipes."""

_KEYS = ("config", "settings", "over", "runs", "seeds", "tests", "metrics")
_MOST_RUNS = 10_000
_LONGEST = 160
"""Largest length of the name of a folder in bytes."""

_OWN = ("seed_everything", "trainer.default_root_dir")
"""Keys that each run has values of its own for."""

COLUMNS = (
    "difference",
    "p questions",
    "p seeds",
    "parameters",
    "trainable",
    "FLOPs per step",
    "tokens/s",
    "seconds",
    "runs",
)
"""Columns of the table, which no axis can be called."""

Settings = dict[str, str]
"""Keys of a recipe -> values as flags give them."""


@dataclass(frozen=True)
class Variant:
    """One composition of an ablation.

    Attributes:
        name: Its name, which is that of its folder.
        labels: What it is on each axis, for the table.
        configs: Its recipes.
        settings: Flags of the recipe, (key, value) in the order in which they apply.
    """

    name: str
    labels: Mapping[str, str]
    configs: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]

    def flags(self) -> list[str]:
        """Returns recipes and settings as a command line."""
        words = [word for config in self.configs for word in ("--config", config)]
        return words + flags_of(self.settings)


@dataclass(frozen=True)
class Ablation:
    """Variants, each of which is trained once with every seed, and tested in one or several ways.

    Attributes:
        variants: The compositions; the first one is the base, with which the others are compared.
        seeds: Seeds, `seed_everything` of the runs.
        tests: Settings of each call of `test`, by name; "" is the name of the only one.
        metrics: Names of the figures of the table; empty: those that there are by default.
    """

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    tests: Mapping[str, Settings] = field(default_factory=lambda: {"": {}})
    metrics: tuple[str, ...] = ()

    @property
    def axes(self) -> list[str]:
        """Names of what differs between the variants."""
        return list(dict.fromkeys(axis for variant in self.variants for axis in variant.labels))


def flags_of(settings: Iterable[tuple[str, str]]) -> list[str]:
    """Returns settings as the words of a command line."""
    return [word for key, value in settings for word in (f"--{key}", value)]


def read_file(name: str) -> dict[str, Any]:
    """Reads the file of an ablation.

    Args:
        name: A path, or the name of one of the library's, such as `ablations/projectors`.

    Raises:
        UserError: There is no such file, or it is not a mapping with known keys.
    """
    path = _find(name)
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # it refuses a key that is given twice
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: an ablation is a mapping with {', '.join(_KEYS)}")
    for key in tree:
        if key not in _KEYS:
            raise UserError(f"{path}: no key {key!r}{near(str(key), _KEYS)}; the keys are {', '.join(_KEYS)}")
    return cast(dict[str, Any], tree)


def make_ablation(
    tree: Mapping[str, Any],
    configs: Sequence[str],
    settings: Sequence[tuple[str, str]],
    over: Sequence[str],
    seeds: str | None,
) -> Ablation:
    """Returns the ablation of a file and flags, which take precedence.

    Args:
        tree: Contents of the file; empty without one.
        configs: Recipes from flags.
        settings: Settings from flags, of all runs, in order.
        over: Axes from flags, `KEY=VALUE,VALUE`.
        seeds: Seeds from flags, such as "0,1,2".

    Raises:
        UserError: Something is missing, of the wrong type, or given twice.
    """
    given = tree.get("config") or []
    if not isinstance(given, str | list):
        raise UserError(f"config: is a recipe or a list of recipes, not {given!r}")
    base = tuple(configs or ([given] if isinstance(given, str) else given))
    if not base or not all(isinstance(name, str) for name in base):
        raise UserError("an ablation needs a base: --config RECIPE, or config: in its file")
    flags = {key for key, _ in settings}
    filed = _settings("settings", tree.get("settings"))
    common = [*((key, value) for key, value in filed.items() if key not in flags), *settings]
    by_flag = [_axis(text) for text in over]
    if twice := sorted({key for key, _ in by_flag if sum(key == other for other, _ in by_flag) > 1}):
        raise UserError(f"--over {twice[0]} is given twice")
    axes = {**_axes(tree.get("over")), **dict(by_flag)}
    _check_axes(axes, common)
    if axes and tree.get("runs"):
        raise UserError("an ablation has axes (over) or a list of runs, not both")
    listed = _listed(tree["runs"]) if tree.get("runs") else _grid(axes)
    if not listed:
        raise UserError("nothing differs: give --over KEY=VALUE,VALUE, or over: or runs: in the file")
    variants = tuple(_variant(name, labels, own, base, common) for name, labels, own in listed)
    names = [variant.name for variant in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two variants are called {twice[0]!r}")
    tests, metrics = _tests(tree.get("tests")), tree.get("metrics") or ()
    if not isinstance(metrics, str | list | tuple):
        raise UserError(f"metrics: is the name of a figure or a list of names, not {metrics!r}")
    return Ablation(
        variants,
        _seeds(tree.get("seeds") if seeds is None else seeds),
        tests,
        (metrics,) if isinstance(metrics, str) else tuple(map(str, metrics)),
    )


def file_name(text: str) -> str:
    """Returns a text as the name of a folder."""
    name = re.sub(r"[^\w.=+,-]+", "_", text).strip("._-") or "run"
    while len(name.encode()) > _LONGEST:
        name = f"{name[: len(name) // 2]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    own = name.removeprefix(f"{FOLDER}/")
    for root in SHIPPED:
        found = root / FOLDER / f"{own}.yaml"
        if ".." not in Path(own).parts and found.is_file():
            return found
    names = sorted(f"{FOLDER}/{file.stem}" for root in SHIPPED for file in (root / FOLDER).glob("*.yaml"))
    known = f"; the library has {', '.join(names)}" if names else ""
    raise UserError(f"there is no ablation {name!r}{near(name, names) or near_file(path)}{known}")


def _axes(tree: Any) -> dict[str, dict[str, Settings]]:
    """Returns the values of each axis by their names, each with its settings."""
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"over: is a mapping of keys to lists of values, not {tree!r}")
    axes = {}
    for key, values in tree.items():
        if isinstance(values, dict):
            axes[str(key)] = {str(name): _settings(f"over.{key}.{name}", own) for name, own in values.items()}
        elif isinstance(values, list) and values:
            axes[str(key)] = _values(str(key), values)
        else:
            raise UserError(f"over.{key} is a list of values, or a mapping of names to settings, not {values!r}")
    return axes


def _check_axes(axes: Mapping[str, Mapping[str, Settings]], common: Iterable[tuple[str, str]]) -> None:
    """Checks that no setting would be lost."""
    keys = {axis: {key for own in values.values() for key in own} for axis, values in axes.items()}
    for axis in axes:
        if axis in COLUMNS or axis in ("test", "seed", "runs"):
            raise UserError(f"an axis cannot be called {axis!r}, which is a column of the table")
    for one, other in itertools.combinations(axes, 2):
        if both := sorted(keys[one] & keys[other]):
            raise UserError(f"the axes {one} and {other} both set {both[0]}")
    for key in (*(key for key, _ in common), *itertools.chain(*keys.values())):
        if key in _OWN:
            raise UserError(f"{key} cannot be set: each run has its own, see --seeds and --out")


def _tests(tree: Any) -> dict[str, Settings]:
    if tree is None:
        return {"": {}}
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"tests: is a mapping of names to settings, not {tree!r}")
    tests = {str(name): _settings(f"tests.{name}", own) for name, own in tree.items()}
    names = [file_name(name) for name in tests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two tests are called {twice[0]!r}")
    return tests


def _axis(text: str) -> tuple[str, dict[str, Settings]]:
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise UserError(f"--over {text!r}: an axis is written KEY=VALUE,VALUE")
    try:
        found = yaml.safe_load(f"[{values}]")  # commas within brackets and quotes do not separate
    except yaml.YAMLError as error:
        raise UserError(f"--over {text!r}: {' '.join(str(error).split())}") from None
    return key.removeprefix("--"), _values(key, found)


def _values(key: str, values: Iterable[Any]) -> dict[str, Settings]:
    found = {_label(value): {key: _text(value)} for value in values}
    if len(found) < len(list(values)):
        raise UserError(f"the axis {key} has a value twice: {', '.join(map(_label, values))}")
    return found


def _grid(axes: Mapping[str, Mapping[str, Settings]]) -> list[tuple[str, dict[str, str], Settings]]:
    """Returns all combinations: name, labels and settings."""
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > _MOST_RUNS:
        raise UserError(f"{count} combinations are more than {_MOST_RUNS}")
    found, several = [], [axis for axis, values in axes.items() if len(values) > 1] or [*axes]
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        every = dict(zip(axes, (label for label, _ in chosen), strict=True))
        labels = {axis: every[axis] for axis in several}
        settings = {key: value for _, own in chosen for key, value in own.items()}
        name = ",".join(f"{axis.rpartition('.')[2]}={label}" for axis, label in labels.items())
        found.append((name, labels, settings))
    return found if axes else []


def _listed(runs: Any) -> list[tuple[str, dict[str, str], Settings]]:
    if not isinstance(runs, dict):
        raise UserError(f"runs: is a mapping of names to settings, not {runs!r}")
    return [(str(name), {"run": str(name)}, _settings(f"runs.{name}", own)) for name, own in runs.items()]


def _variant(
    name: str, labels: dict[str, str], own: Settings, base: tuple[str, ...], common: Sequence[tuple[str, str]]
) -> Variant:
    """Returns a variant; what it sets itself takes precedence over common settings.

    A class drops the arguments that were set before it. Common settings therefore come after those of the variant,
    except those that name what the variant has arguments of or appends to.
    """
    own = dict(own)
    config = own.pop("config", None)
    if not any(key.endswith("+") for key in own):  # a class before its arguments, in whatever order the axes are
        own = dict(sorted(own.items(), key=lambda pair: _bare(pair[0]).count(".")))
    given = given_keys([*own.items()]) | {_bare(key) for key in own if not key.endswith("+")}
    kept = [(key, value) for key, value in common if _bare(key) not in given or key.endswith("+")]
    first = [pair for pair in kept if not pair[0].endswith("+") and any(_changes(key, pair[0]) for key in own)]
    settings = (*first, *own.items(), *(pair for pair in kept if pair not in first))
    return Variant(file_name(name), labels, base if config is None else (config,), settings)


def _bare(key: str) -> str:
    return key.removesuffix("+").replace(".init_args", "")


def _changes(key: str, whole: str) -> bool:
    """Returns whether a key appends to, or is an argument of, what another key names."""
    return _bare(key).startswith(f"{_bare(whole)}.") or (_bare(key) == _bare(whole) and key.endswith("+"))


def _settings(where: str, tree: Any) -> Settings:
    if not isinstance(tree, dict | None):
        raise UserError(f"{where}: is a mapping of keys to values, such as model.projector: MLPProjector, not {tree!r}")
    found = {str(key): _text(value) for key, value in (tree or {}).items()}
    for key in found:
        if "." not in key and key not in ("config", "data", "seed_everything"):
            raise UserError(f"{where}: {key!r} is no key of a recipe: these have a dot, such as trainer.max_steps")
    return found


def _seeds(given: Any) -> tuple[int, ...]:
    values = given.split(",") if isinstance(given, str) else [0] if given is None else given
    if not values or not isinstance(values, list) or not all(str(value).strip().isdecimal() for value in values):
        raise UserError(f"seeds is a list of numbers from 0 on, such as 0,1,2, not {given!r}")
    seeds = tuple(int(value) for value in values)
    if len({*seeds}) < len(seeds):
        raise UserError(f"a seed is given twice: {', '.join(map(str, seeds))}")
    return seeds


def _text(value: Any) -> str:
    """Returns a value as a flag gives it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _label(value: Any) -> str:
    """Returns a value as the table shows it: of a part, its class and arguments."""
    if isinstance(value, dict) and "class_path" in value:
        inner = value.get("init_args") or {}
        shown = ", ".join(f"{key}={_label(item)}" for key, item in inner.items())
        return str(value["class_path"]).rpartition(".")[2] + (f"({shown})" if shown else "")
    return _text(value)
