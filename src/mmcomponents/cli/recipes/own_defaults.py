"""Parser under which a class that replaces another starts from its own defaults.

jsonargparse gives the new class all arguments of the replaced one that it also accepts: SGD in the place of the default
AdamW would get AdamW's weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, cast

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from mmcomponents.cli.recipes.merging import same_class

Instantiator = tuple[Callable[..., Any], type, bool]
"""Function that constructs a class, the class, and whether it constructs subclasses too."""


class RecipeParser(LightningArgumentParser):
    """Parser whose defaults lack what the values to be parsed replace.

    jsonargparse creates the parsers of nested classes as instances of the outermost parser's class, so that this holds
    at any depth.

    Attributes:
        instantiators: What `add_instantiator` was given, the argument of `instantiate`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given: list[Any] = []
        self.instantiators: list[Instantiator] = []

    def add_instantiator(
        self, instantiator: Callable[..., Any], class_type: type, subclasses: bool = True, prepend: bool = False
    ) -> None:
        """Keeps a function that constructs a class in `instantiators`.

        LightningCLI adds those that record the hyperparameters of task and data.
        """
        self.instantiators.insert(0 if prepend else len(self.instantiators), (instantiator, class_type, subclasses))

    @contextmanager
    def replacing(self, given: Any) -> Iterator[None]:
        """Parses the values of a tree inside this context.

        Args:
            given: Mapping or namespace of the values that will be parsed.
        """
        self._given.append(given)
        try:
            yield
        finally:
            self._given.pop()

    def parse_object(
        self, obj: Namespace | dict[str, Any], namespace: Namespace | None = None, *args: Any, **kwargs: Any
    ) -> Namespace:
        """Parses a tree, see `jsonargparse.ArgumentParser.parse_object`."""
        if namespace is not None:  # earlier values, which may be defaults
            namespace = _copied(namespace)
            _drop_replaced(vars(namespace), obj)
        with self.replacing(obj):
            return cast(Namespace, super().parse_object(obj, namespace, *args, **kwargs))

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Returns the defaults, inside `replacing` without those of classes that the given values replace."""
        found: Namespace = _copied(super().get_defaults(*args, **kwargs))
        for (
            action
        ) in self._actions:  # a member of an enum as the default of a text, which YAML lacks: Lightning's Timer
            value = vars(found).get(action.dest)
            if isinstance(value, Enum) and isinstance(value, str) and getattr(action, "_typehint", None) is str:
                found[action.dest] = str(value.value)
        if self._given:
            _drop_replaced(vars(found), self._given[-1])
        return found


def _copied(value: Any) -> Any:
    """Returns a copy of a namespace, its mappings and lists included, which may be those of the given values."""
    if isinstance(value, Namespace):
        made = value.clone()
        vars(made).update({key: _copied(item) for key, item in vars(value).items()})
        return made
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _drop_replaced(defaults: MutableMapping[str, Any], given: Any, is_argument: bool = False) -> None:
    """Sets to None, in place, each class among the defaults in whose place the given values name another one.

    Args:
        defaults: Defaults.
        given: Values in their place.
        is_argument: Whether the defaults are the items of one argument, a mapping, whose lists are values.
    """
    for key, value in _items(given).items():
        default = defaults.get(key)
        below = _items(default)
        if "class_path" in below:
            name = value if isinstance(value, str) else _items(value).get("class_path")
            if name is not None and not same_class(below["class_path"], name):
                defaults[key] = None
            elif "init_args" in below:
                arguments = _items(value)
                _drop_replaced(_items(below["init_args"]), arguments.get("init_args", arguments))
        elif isinstance(default, list) and isinstance(value, list) and not is_argument:
            defaults[key] = None  # the items of a list are not merged
        elif below:
            _drop_replaced(below, value, isinstance(default, dict))


def _items(value: Any) -> MutableMapping[str, Any]:
    if isinstance(value, Namespace):
        return vars(value)
    return cast(MutableMapping[str, Any], value) if isinstance(value, Mapping) else {}
