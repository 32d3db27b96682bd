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
            `{class_path: my_package.MyKind, init_args: {size: 3}}`. None: the built-in kinds.

    Raises:
        PartError: There is no such kind.
        ValueError: An argument of a kind is missing or wrong, a kind cannot be built, or a mapping is no YAML.
    """
    return Kinds(None if names is None else [_built(name) for name in names])


def _built(name: str) -> RecordKind:
    path, arguments = name, dict[str, Any]()
    if name.lstrip().startswith("{"):
        try:
            tree = yaml.safe_load(name)
        except yaml.YAMLError as error:
            raise ValueError(f"the record kind {name} is no YAML: {' '.join(str(error).split())}") from error
        arguments = tree.get("init_args") or {}
        named = isinstance(tree.get("class_path"), str) and not {*tree} - {"class_path", "init_args"}
        if not named or not isinstance(arguments, Mapping):
            raise ValueError(f"the record kind {name} is not {{class_path: NAME, init_args: {{…}}}}")
        path = tree["class_path"]
    found = registry.load("record_kind", path)
    try:
        kind = found(**arguments)
    except TypeError as error:
        raise ValueError(f"the record kind {name} cannot be built with these arguments ({error})") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the record kind {name} cannot be built ({reason})") from error
    assert isinstance(kind, RecordKind)
    return kind
