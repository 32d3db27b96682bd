"""What the variants of an ablation differ in from the base, read from their merged recipes.

An axis may set several keys, a list of runs any number, and another class drops the arguments of the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmcomponents.class_source import arguments_of
from mmcomponents.cli.ablation.ablation_spec import Variant
from mmcomponents.cli.recipes.early_check import recipe_of
from mmcomponents.cli.recipes.merging import PART_KEYS, Tree
from mmcomponents.cli.user_error import UserError
from mmcomponents.plain_text import plain_line
from mmcomponents.registry import PartError, find

_LONGEST = 80
_UNSET = "default"
_FOLDER = ("trainer.default_root_dir", "")
"""Each run has another one."""


def differences_of(variants: Sequence[Variant], most: int | None = 8) -> list[str]:
    """Returns a line for each variant that differs from the base, the first one, on one axis.

    What differs on several axes is the sum of these. Keys whose values are the labels of an axis are left out, and
    variants whose recipes are broken.

    Args:
        variants: The variants, the base first.
        most: Number of settings that a line names. None: all.
    """
    base = _recipe(variants[0])
    lines = []
    for variant in variants[1:]:
        labels = {axis: label for axis, label in variant.labels.items() if variants[0].labels.get(axis) != label}
        tree = _recipe(variant)
        if len(labels) != 1 or tree is None or base is None:
            continue
        there, own = dict(_walk(base, "")), dict(_walk(tree, ""))
        classes = dict(_classes(base, "")), dict(_classes(tree, ""))
        shown = [
            f"{key} {_short(own.get(key, _UNSET))} (base: {_short(there.get(key, _UNSET))})"
            for key in {**there, **own}
            if there.get(key, _UNSET) != own.get(key, _UNSET)
            and (key not in labels or own.get(key) not in (labels[key], labels[key].rpartition(".")[2]))
            and (key in own or _is_argument(key, *classes))
        ]
        more = f"; and {len(shown[most:])} more" if most is not None and shown[most:] else ""
        if shown:
            ((axis, label),) = labels.items()
            lines.append(plain_line(f"{axis.rpartition('.')[2]}={label}: {'; '.join(shown[:most])}{more}"))
    return lines


def _recipe(variant: Variant) -> Tree | None:
    """Returns the resolved recipe of a variant; None: it is broken."""
    try:
        return recipe_of(variant.configs, (*variant.settings, _FOLDER)).resolved()
    except UserError:
        return None


def _is_argument(key: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Returns whether a part still has an argument, given the classes of parts by key before and now."""
    part = key.rpartition(".")[0]
    while part and part not in before:
        part = part.rpartition(".")[0]
    if not part or before[part] == now.get(part):
        return True
    accepted: Iterable[str] | None = None
    with suppress(PartError):
        accepted = arguments_of(find(now[part])) if part in now else ()
    return accepted is None or key.removeprefix(f"{part}.").partition(".")[0] in accepted


def _classes(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the class of each part of a recipe."""
    if isinstance(node, dict):
        if "class_path" in node:
            yield key, str(node["class_path"])
        for name, value in node.items():
            yield from _classes(value, key if name == "init_args" else f"{key}.{name}" if key else name)


def _walk(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the values of a recipe; a part's own key has its class."""
    if not isinstance(node, dict) or not node:
        name = str(node)
        yield key, "null" if node is None else name.lower() if isinstance(node, bool) else name
        return
    if "class_path" in node:
        yield key, str(node["class_path"]).rpartition(".")[2]
    for name, value in node.items():
        if name == "init_args" and isinstance(value, dict):
            yield from (pair for inner, item in value.items() for pair in _walk(item, f"{key}.{inner}"))
        elif name not in PART_KEYS:
            yield from _walk(value, f"{key}.{name}" if key else name)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
