"""Former place of `mmcomponents.generation`, `synthesis` and `evaluation`; names are looked up in their new modules."""

from typing import Any

from mmcomponents.moved import moved_attribute


def __getattr__(name: str) -> Any:
    return moved_attribute(__name__, name)
