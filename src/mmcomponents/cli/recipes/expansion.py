"""Size of a recipe after its interpolations are resolved, estimated before."""

from __future__ import annotations

import re
from typing import Any


class Expansion:
    """Estimate of the number of values, in units of 1,000 characters, that a tree has after resolution.

    A reference counts as much as what it refers to. A key that is itself computed (`${a.${b}}`) counts as one value.
    """

    def __init__(self, tree: dict[str, Any]) -> None:
        self._nodes: dict[str, Any] = {"": tree}
        self._sizes: dict[str, int] = {}
        waiting: list[tuple[str, Any]] = [("", tree)]
        while waiting:
            prefix, node = waiting.pop()
            items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            below = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in items]
            self._nodes |= dict(below)
            waiting += below

    def size(self, key: str = "") -> int:
        """Returns the estimate for the value of a key."""
        if key not in self._sizes:
            self._sizes[key] = 0  # a cycle is reported when it is resolved
            self._sizes[key] = self._measured(key, self._nodes[key])
        return self._sizes[key]

    def _measured(self, key: str, node: Any) -> int:
        if isinstance(node, dict | list):
            names = node if isinstance(node, dict) else range(len(node))
            return 1 + sum(self.size(f"{key}.{name}" if key else str(name)) for name in names)
        text = str(node)
        words = re.findall(r"[^\s${},:]+", text.replace("[", ".").replace("]", "")) if "${" in text else []
        return 1 + len(text) // 1000 + sum(self.size(target) for word in words for target in self._targets(key, word))

    def _targets(self, key: str, word: str) -> list[str]:
        name = word.lstrip(".")
        for _ in range(len(word) - len(name)):
            key = key.rpartition(".")[0]
        path = f"{key}.{name}" if name != word and key else name
        return [path] if name and path in self._nodes else []
