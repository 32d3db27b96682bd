"""How the command tells a user of a mistake: one line on standard error, no traceback."""

from __future__ import annotations

import re


class UserError(ValueError):
    """A mistake of the user's: an unknown file, key or part, a wrong value. The message is one line."""


_NOISE = re.compile(
    r"^(Does not validate against any|Subtypes:|Errors:|Given value type:|Expected a <class 'NoneType'>\.?$"
    r"|Expected a path but )"
)
_CALLABLE = re.compile(r"Type (?:collections\.abc|typing)\.Callable.* expects a function or a callable class: ")
_DUMP = re.compile(r"\.? ?Got value: Namespace\(.*\)$")
_CLASS = re.compile(r"<class '(?:builtins\.)?([\w.]+)'>")


def one_line(message: str) -> str:
    """The first fault of a parser's message of many lines.

    jsonargparse lists every member of a union with its own complaint; the user needs the key, what was wrong and the
    value that was given.
    """
    seen: list[str] = []
    for raw in message.splitlines():
        line = _DUMP.sub("", _CALLABLE.sub("", raw.strip().removeprefix("- ").strip()))
        line = _CLASS.sub(r"\1", line)
        if line and not _NOISE.match(raw.strip().removeprefix("- ").strip()) and line not in seen:
            seen.append(line)
    text = re.sub(r" Given value: Namespace\(.*\)$", "", " ".join(seen))
    return re.sub(r'Parser key "([^"]+)":', r"\1:", text)
