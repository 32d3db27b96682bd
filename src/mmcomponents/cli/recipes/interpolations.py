"""Interpolations of a recipe: their cost, and the text of a recipe that keeps them.

Values of environment variables are used by a run and written nowhere: not to the saved recipe, the hyperparameters of a
checkpoint or the files of a logger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcomponents.cli.recipes.check import complete, without_flag_only
from mmcomponents.cli.recipes.merging import Tree, copied
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.user_error import UserError

_OPEN = "${"
_READS_ENVIRONMENT = ("oc.env", "oc.decode")
"""Resolvers whose result may hold the value of an environment variable."""
_SECRET = 6
"""Least length of a value that is looked for everywhere."""
_COMPUTED = re.compile(r"\$\{[^:}]*\$\{[^}]*\}[^:}]*:")
"""Interpolation whose resolver is computed, and may be one of these."""


@dataclass
class Texts:
    """A recipe before its interpolations are resolved.

    Attributes:
        written: The merged recipe, with all its interpolations.
        public: The recipe with all interpolations resolved, except those that read the environment.
        data_class: Path of the data class; None: the default one, whose arguments stand in the data section itself.
        secrets: Values that the environment gave, with their texts in the recipe. The parser may have moved them.
    """

    written: Tree
    public: Tree
    secrets: dict[str, str]
    data_class: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, class_defaults: Mapping[str, Any], data_class: str | None = None) -> Texts:
        """Returns the texts of a recipe; arguments of default classes are moved to where the parser has them."""
        recipe = recipe.plain()
        written = copied(recipe.tree)
        try:
            hidden = _map_texts(recipe.tree, _escape_environment)
            public = replace(recipe, tree=hidden).resolved()
            secrets = dict(_replaced(recipe.resolved(), public)) if hidden != recipe.tree else {}
        except UserError:  # a reference into a value that is hidden
            public, secrets = copied(recipe.tree), {}
        for tree in (written, public):
            complete(tree, class_defaults)
        return cls(written, public, secrets, data_class)

    def hide_environment(self, tree: Tree) -> Tree:
        """Returns a parsed tree with the recipe's text in place of each value that the environment gave."""
        return cast(Tree, _map_texts(_with_texts(tree, self.public), self._without_secret))

    def recipe(self, dumped: str) -> str:
        """Returns the text of a recipe with all defaults and with its interpolations.

        An interpolation that would have another value in the written recipe is written resolved, such as one that
        refers to an argument of the verb.

        Args:
            dumped: Output of the parser: comments, and the resolved recipe as YAML.
        """
        resolved = without_flag_only(yaml.safe_load(dumped))
        kept = _with_texts(resolved, self.written)
        equal = _equal_parts(kept, OmegaConf.create(kept), resolved, self.hide_environment(resolved))
        comments = "".join(line for line in dumped.splitlines(keepends=True) if line.startswith("#"))
        if self.data_class is not None:
            equal["data"] = {"class_path": self.data_class, "init_args": equal.get("data", {})}
        return comments + OmegaConf.to_yaml(OmegaConf.create(_map_texts(equal, self._without_secret)))

    def _without_secret(self, text: str) -> str:
        return self.secrets.get(text, text)


def without_references(tree: Any, texts: Any) -> Any:
    """Returns a resolved tree without the values that are interpolations in `texts`."""
    if not isinstance(tree, dict) or not isinstance(texts, dict):
        return tree
    kept = {k: v for k, v in tree.items() if not (isinstance(texts.get(k), str) and _OPEN in texts[k])}
    return {key: without_references(value, texts.get(key)) for key, value in kept.items()}


def _replaced(resolved: Any, texts: Any) -> Iterator[tuple[str, str]]:
    """Yields (value, text) of the texts that were resolved, except values that others may have by chance."""
    if isinstance(texts, str):
        if _OPEN in texts and isinstance(resolved, str) and len(resolved) >= _SECRET:
            yield resolved, texts
    elif isinstance(texts, dict | list):
        for key in texts if isinstance(texts, dict) else range(len(texts)):
            yield from _replaced(resolved[key], texts[key])


def _equal_parts(kept: Any, node: Any, resolved: Any, public: Any) -> Any:
    """Returns `kept` with the value in `public` wherever its own, which `node` resolves, differs from `resolved`."""
    keys = kept if isinstance(kept, dict) else range(len(kept))
    values = {}
    for key in keys:
        inner, parsed = kept[key], resolved[key]
        if isinstance(inner, dict | list):
            inner = _equal_parts(inner, node[key], parsed, public[key])
        elif isinstance(inner, str) and inner != parsed and str(_value(node, key)) != str(parsed):
            inner = public[key]
        values[key] = inner
    return values if isinstance(kept, dict) else list(values.values())


def _value(node: Any, key: Any) -> Any:
    try:
        found = node[key]
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except (OmegaConfBaseException, RecursionError):
        return None


def _with_texts(tree: Any, texts: Any) -> Any:
    """Returns a tree with the interpolations that `texts` has at the same places."""
    if isinstance(texts, str) and _OPEN in texts:
        return texts
    if isinstance(tree, dict):
        return {k: _with_texts(v, texts.get(k)) if isinstance(texts, dict) else v for k, v in tree.items()}
    if isinstance(tree, list):
        same = isinstance(texts, list) and len(texts) == len(tree)
        return [_with_texts(*pair) for pair in zip(tree, texts, strict=True)] if same else list(tree)
    return tree


def _map_texts(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _escape_environment(text: str) -> str:
    """Escapes each outermost interpolation that reads the environment, so that it stays as text."""
    done, depth, start = "", 0, 0
    for match in re.finditer(r"(?<!\\)\$\{|\}", text):
        if match.group() == _OPEN:
            if depth == 0:
                done, start = done + text[start : match.start()], match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                span = text[start : match.end()]
                reads = any(name in span for name in _READS_ENVIRONMENT) or _COMPUTED.search(span) is not None
                done, start = done + (span.replace(_OPEN, "\\" + _OPEN) if reads else span), match.end()
    return done + text[start:]
