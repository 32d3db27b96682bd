"""Errors that the command prints as one line on standard error, without a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmcomponents.registry import near


class UserError(ValueError):
    """An error in the user's input: an unknown file, key or part, or an invalid value. The message is one line."""


_NOISE = re.compile(
    r"^(Does not validate against any|Subtypes:|Errors:|Given value type:|Expected a <class 'NoneType'>\.?$"
    r"|Expected a path but |Not a valid subclass of |Subclass types expect one of:|a class path \(str\)$|a dict with)"
)
_CALLABLE = re.compile(r"Type (?:collections\.abc|typing)\.Callable.* expects a function or a callable class: ")
_OWNER = re.compile(r"Problem with given class_path '[^']+': ")
_WHOLE = re.compile(r"((?:Given|Got) value: .*?)\.? Given value: [\[{].*$")
"""The wrong value, followed by the complete value of its key."""
_DUMP = re.compile(r"\.? ?Got value: Namespace\(.*\)$")
_CLASS = re.compile(r"<class '(?:builtins\.)?([\w.]+)'>")


def one_line(message: str) -> str:
    """Returns the relevant part of a parser's message of several lines.

    jsonargparse lists each member of a union with its own complaint. The key, the reason and the given value are kept.
    """
    seen: list[str] = []
    for raw in message.splitlines():
        line = _DUMP.sub("", _CALLABLE.sub("", raw.strip().removeprefix("- ").strip()))
        line = _CLASS.sub(r"\1", line)
        if line and not _NOISE.match(raw.strip().removeprefix("- ").strip()) and line not in seen:
            seen.append(line)
    text = re.sub(r" Given value: (Namespace\(|\[Namespace\().*$", "", " ".join(seen))
    text = _OWNER.sub("", _WHOLE.sub(r"\1", text))
    return re.sub(r'Parser key "([^"]+)":', r"\1:", text)


@contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """Turns errors in inputs (`ValueError`, `OSError`) into a `UserError` that names the command."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{command}: {' '.join(str(error).split())}") from error


def near_file(path: Path) -> str:
    """Returns "; did you mean …?" with the entry of the same folder whose name is near, or an empty string."""
    return near(path.as_posix(), [entry.as_posix() for entry in path.parent.glob("*")])
