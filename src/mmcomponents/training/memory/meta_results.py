"""Results of operations on the meta device: computed once, then made from what is known of them.

An operation without data only computes shapes. Many of torch's do so in Python, in up to hundreds of steps (bilinear
sampling), and the layers of a model repeat each of them with the same shapes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _New:
    """A new tensor without data."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class MetaResults:
    """Calls operations, and remembers the shapes of their results.

    Remembered are operations on meta tensors alone whose results are new tensors: no views, nothing in place.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns what the operation returns.

        Args:
            func: Overload of an operation.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        key = _key(func, args, kwargs) if _makes_new(func) else None
        if key is None:
            return func(*args, **kwargs)
        if key not in self._known:
            out = func(*args, **kwargs)
            if not _storages(out) & _storages((args, kwargs)):  # some views do not declare it, such as `_unsafe_view`
                with suppress(_UnknownError):
                    self._known[key] = _layouts(out)
            return out
        return _made(self._known[key])


class _UnknownError(Exception):
    """A value whose equality says nothing about the result."""


@cache
def _makes_new(func: Any) -> bool:
    """Returns whether the results of an operation are tensors that share nothing with its arguments."""
    schema = func._schema
    named = (*schema.arguments, *schema.returns)
    return bool(schema.returns) and all(item.alias_info is None for item in named)


def _storages(values: Any) -> set[int]:
    """Returns the storages of the tensors among values, in mappings and lists too."""
    if isinstance(values, Tensor):
        return {values.untyped_storage()._cdata}
    if isinstance(values, dict):
        return _storages(list(values.values()))
    return set().union(*map(_storages, values)) if isinstance(values, list | tuple) else set()


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns a key that is equal for arguments with equal results; None if there is none."""
    tensors: list[bool] = []
    try:
        given = (_described(args, tensors), tuple((name, _described(kwargs[name], tensors)) for name in kwargs))
    except _UnknownError:
        return None
    return (func, *given) if tensors else None


def _described(value: Any, tensors: list[bool]) -> Any:
    if type(value) in (Tensor, nn.Parameter):
        if not value.is_meta or value.layout != torch.strided:
            raise _UnknownError
        tensors.append(True)
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple([_described(item, tensors) for item in value])
    if value is None or isinstance(value, int | float | str | torch.dtype | torch.device):
        return type(value), value  # 1, 1.0 and True are equal, and give results of other types
    if isinstance(value, torch.memory_format | torch.layout):
        return value
    raise _UnknownError


def _layouts(out: Any) -> Any:
    if type(out) is Tensor and out.is_meta and out.layout == torch.strided:
        return _New(out.shape, out.stride(), out.dtype)
    if isinstance(out, list | tuple):
        return type(out)([_layouts(item) for item in out])
    if out is None:
        return None
    raise _UnknownError


def _made(found: Any) -> Any:
    if isinstance(found, _New):
        return torch.empty_strided(found.shape, found.stride, dtype=found.dtype, device="meta")
    return found if found is None else type(found)([_made(item) for item in found])
