"""Construction of the classes of a parsed recipe, with errors that name the class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from mmcomponents.cli.recipes.classes import class_name
from mmcomponents.cli.recipes.own_defaults import Instantiator
from mmcomponents.cli.user_error import UserError
from mmcomponents.component import WiringError
from mmcomponents.registry import extra_hint


@contextmanager
def naming_classes(instantiators: Sequence[Instantiator] = ()) -> Iterator[list[Instantiator]]:
    """Yields the argument `instantiators` of jsonargparse's `instantiate`, under which errors name the class.

    The parser gives an error of a constructor without the name of the class, among those of the other members of a
    union. Classes that factories construct inside the context are treated in the same way.

    Args:
        instantiators: Those of the parser; other classes are called.

    Raises:
        UserError: A constructor raised an error. A `WiringError`, which names the parts, is raised as it is.
    """
    failed: list[tuple[type, Exception]] = []

    def noting(construct: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(construct)
        def noted(kind: type, *args: Any, **kwargs: Any) -> Any:
            try:
                return construct(kind, *args, **kwargs)
            except Exception as error:
                failed.append((kind, error))
                raise

        return noted

    try:
        yield [(noting(construct), kind, below) for construct, kind, below in (*instantiators, (_call, object, True))]
    except Exception as error:
        if not failed or isinstance(error, WiringError | UserError):  # the latter say more than the constructor's
            raise
        kind, cause = failed[0]
        if isinstance(cause, WiringError | UserError):
            raise cause from None
        text = " ".join(str(cause).split()) or type(cause).__name__
        if re.match(r"(data|model|trainer)\.\w", text):  # the message begins with the key
            raise UserError(text) from error
        why = text if isinstance(cause, ValueError) else f"{type(cause).__name__}: {text}"
        raise UserError(f"{class_name(kind)} cannot be constructed: {why}{extra_hint(cause)}") from error


def _call(kind: type, *args: Any, **kwargs: Any) -> Any:
    return kind(*args, **kwargs)
