"""Checks of the arguments of parts: their types, and their largest sizes, before they cost time and memory."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from numbers import Integral, Real
from reprlib import repr as shortened
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_LAYERS = 1_000
"""Layers of a part; the deepest released language models have 126."""
MAX_WIDTH = 1_000_000
"""Widths, numbers of heads, sides of images and patches in pixels."""
MAX_ROWS = 1_000_000_000
"""Vocabulary sizes and numbers of positions."""
MAX_TILES = 4_096
"""Tiles of an image; the published settings are 12 to 40."""

MAX_SHOWN = 5
"""Arguments of a class that an error lists."""


def check_sizes(most: int = MAX_WIDTH, **sizes: object) -> None:
    """Checks that sizes are whole numbers from 1 to a limit.

    Args:
        most: The limit.
        sizes: Sizes by name.

    Raises:
        ValueError: One is not; the message has its name and value.
    """
    for name, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {shortened(value)}")
        if not 1 <= int(value) <= most:
            raise ValueError(f"{name} must be from 1 to {most:,}, got {shortened(value)}")


def check_choices(**choices: tuple[object, Any]) -> None:
    """Checks that values are among those of their types.

    Args:
        choices: Value and type, a `Literal`, by name.

    Raises:
        ValueError: One is not; the message has its name, its value and all choices.
    """
    for name, (value, kind) in choices.items():
        accepted = get_args(kind)
        if value not in accepted:
            shown = repr(accepted[0]) if len(accepted) == 1 else f"one of {', '.join(map(repr, accepted))}"
            raise ValueError(f"{name} must be {shown}, got {shortened(value)}")


def check_numbers(least: float = 0.0, **numbers: object) -> None:
    """Checks that numbers are finite and not below a limit.

    Args:
        least: The limit.
        numbers: Numbers by name.

    Raises:
        ValueError: One is not; the message has its name and value.
    """
    for name, value in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < least:
            raise ValueError(f"{name} must be a finite number of at least {least:g}, got {shortened(value)}")


def wrong_argument(
    call: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[object, str] | None:
    """Returns the first argument of a call that is not of the class of its annotation, for an error; None if all are.

    Args:
        call: Function with annotations. Those that are not classes, or unions of them, are not compared, nor are
            arguments of variable number.
        args: Its positional arguments.
        kwargs: Its named arguments.

    Returns:
        The value; and a text: the argument's name, its class with what that is made of, and the class of the value.
    """
    try:
        bound, kinds = inspect.signature(call).bind(*args, **kwargs), get_type_hints(call)
        for name, value in bound.arguments.items():
            kind = kinds.get(name)
            accepted = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
            is_one = bound.signature.parameters[name].kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
            if is_one and all(_is_class(kind) for kind in accepted) and not isinstance(value, _and_narrower(accepted)):
                needs = " or ".join(_made_of(kind) for kind in accepted if kind is not type(None))
                return value, f"{name}: {needs}, got {type(value).__name__}"
    except Exception:  # other arguments, or annotations that cannot be read: the error to be explained is told alone
        return None
    return None


def _is_class(kind: object) -> bool:
    """Whether `isinstance` can compare with it; it cannot with `Any`, a protocol, a generic or a typed dictionary."""
    plain = isinstance(kind, type) and get_origin(kind) is None and kind is not Any
    return plain and not getattr(kind, "_is_protocol", False) and not is_typeddict(kind)


def _and_narrower(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns classes with those that type checkers accept in their place: whole numbers for `float`."""
    return (*kinds, int) if float in kinds else kinds


def _made_of(kind: type) -> str:
    """Returns a class of the package with the arguments that it requires, and its module; others by name."""
    if kind.__module__.split(".")[0] != __package__:
        return kind.__name__
    parameters = inspect.signature(kind).parameters.values()
    required = [str(p.replace(annotation=p.empty)) for p in parameters if p.default is p.empty]
    shown = ", ".join(required) if len(required) <= MAX_SHOWN else "…"
    return f"{kind.__name__}{f'({shown})' if required else ''} of {kind.__module__}"
