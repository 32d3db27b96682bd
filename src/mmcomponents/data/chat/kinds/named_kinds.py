"""Record kinds by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmcomponents import registry
from mmcomponents.data.chat.kinds.base import RecordKind
from mmcomponents.data.chat.kinds.kind_list import Kinds


def named_kinds(names: Sequence[str] | None) -> Kinds:
    """Returns the kinds of the given names.

    Args:
        names: All kinds of the runs, each a name, a dotted path, or as in a recipe a mapping in YAML:
            `{class_path: my_package.MyKind, init_args: {size: 3}}`, or a list of these. None: the built-in kinds.

    Raises:
        PartError: There is no such kind.
        ValueError: An argument of a kind is missing or wrong, a kind cannot be built, or a mapping is no YAML.
    """
    return Kinds(None if names is None else [_built(entry) for entry in entries_of(names)])


def entries_of(names: Sequence[str]) -> list[Any]:
    """Returns the kinds of the given names as `data.kinds` of a recipe has them: names and mappings.

    Raises:
        ValueError: A mapping is no YAML.
    """
    return [entry for name in names for entry in _entries(name)]


def _entries(name: str) -> list[Any]:
    """Returns the kinds of a word: itself if it is a name, else what its YAML holds."""
    if name.lstrip()[:1] not in ("{", "["):
        return [name]
    try:
        found = yaml.safe_load(name)
    except yaml.YAMLError as error:
        raise ValueError(f"the record kind {name} is no YAML: {' '.join(str(error).split())}") from error
    return found if isinstance(found, list) else [found]


def _built(name: str | Mapping[str, Any]) -> RecordKind:
    path, arguments = "", dict[str, Any]()
    if isinstance(name, str):
        path = name
    else:
        tree = name if isinstance(name, Mapping) else {}
        arguments = tree.get("init_args") or {}
        named = isinstance(tree.get("class_path"), str) and not {*tree} - {"class_path", "init_args"}
        if not named or not isinstance(arguments, Mapping):
            raise ValueError(f"the record kind {name} is not {{class_path: NAME, init_args: {{…}}}}")
        path = tree["class_path"]
    found = registry.load("record_kind", path)
    try:
        kind = found(**arguments)
    except TypeError as error:
        raise ValueError(
            f"the record kind {name} cannot be built with these arguments ({error}): name it as"
            f" {{class_path: {path}, init_args: {{…}}}}"
        ) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the record kind {name} cannot be built ({reason})") from error
    assert isinstance(kind, RecordKind)
    return kind
