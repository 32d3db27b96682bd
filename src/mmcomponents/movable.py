"""Dataclasses of tensors that are moved between devices, and tensors that are never cast."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor


class Exact:
    """Tensors that are moved and pinned but never cast.

    Precision plugins cast every float tensor in a batch or among the arguments of a module, dataclasses included. They
    do not look inside a plain class, so rotary tables and reference log-probabilities keep their precision.

    Args:
        tensors: One or more tensors that belong together, such as cosine and sine, each an argument.

    Raises:
        TypeError: A list or tuple is given in place of its tensors.
        ValueError: There is none.
    """

    __slots__ = ("tensors",)

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("Exact needs at least one tensor")
        for value in tensors:
            if isinstance(value, list | tuple):
                raise TypeError(
                    f"Exact takes tensors, each an argument, as in Exact(cos, sin): got a {type(value).__name__}"
                )
        self.tensors = tensors

    @property
    def tensor(self) -> Tensor:
        """The only tensor, of any shape; raises `ValueError` if there are several."""
        if len(self.tensors) != 1:
            raise ValueError(f"this Exact holds {len(self.tensors)} tensors, not one; unpack it")
        return self.tensors[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Exact:
        """Returns a copy on `device`. Takes no dtype, so that a cast is not possible."""
        return Exact(*(t.to(torch.device(device), non_blocking=non_blocking) for t in self.tensors))

    def pin_memory(self) -> Exact:
        """Returns a copy in pinned memory."""
        return Exact(*(t.pin_memory() for t in self.tensors))

    def __repr__(self) -> str:
        return f"Exact({', '.join(f'{t.dtype} {list(t.shape)}' for t in self.tensors)})"


_D = TypeVar("_D")


def _map_tensors(value: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(value, Tensor | Exact):
        return getattr(value, method)(*args, **kwargs)
    if isinstance(value, dict):
        return {name: _map_tensors(inner, method, *args, **kwargs) for name, inner in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(
            **{f.name: _map_tensors(getattr(value, f.name), method, *args, **kwargs) for f in fields(value)}
        )
    return value


@dataclass
class Movable:
    """Provides `to` and `pin_memory` for dataclasses of tensors; values other than tensors are kept unchanged.

    Only fields can be set: any other attribute would be lost whenever the object is copied, for example to a device.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        known = self.__dataclass_fields__
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            near = f"; did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"{type(self).__name__} has no field {name!r}{near}{self._remedy()}")
        super().__setattr__(name, value)

    def _remedy(self) -> str:
        return ""

    def to(self: _D, device: torch.device | str, non_blocking: bool | None = None) -> _D:
        """Returns a copy on `device` without casting. Copies to a GPU are non-blocking by default."""
        device = torch.device(device)
        non_blocking = device.type == "cuda" if non_blocking is None else non_blocking
        moved: _D = _map_tensors(self, "to", device, non_blocking=non_blocking)
        return moved

    def pin_memory(self: _D) -> _D:
        """Returns a copy in pinned memory."""
        pinned: _D = _map_tensors(self, "pin_memory")
        return pinned
