"""A turn of a conversation: `{"from": ROLE, "value": TEXT}` or `{"role": ROLE, "content": TEXT or PARTS}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcomponents.data.convert.chat_messages import read_content
from mmcomponents.data.convert.harmless_keys import TURN_KEYS, unknown_keys
from mmcomponents.data.convert.other_programs.reasoning import REASONING_KEYS, with_reasoning
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.unsupported import CHECKED_IN_TURNS, check_turn

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_NOTATIONS = (("role", "content"), ("from", "value"))


@dataclass(frozen=True)
class Turn:
    """A turn.

    Attributes:
        role: user, assistant or system.
        text: Its text, with placeholders.
        images: Path or URL of each image that its parts give.
        videos: Path or URL of each video that its parts give.
        rest: Its other keys, and those of its parts under "parts".
        unknown: Names of those that are neither used nor known to be harmless.
    """

    role: str
    text: str
    images: list[str]
    videos: list[str]
    rest: dict[str, Any]
    unknown: list[str]

    @property
    def message(self) -> dict[str, str]:
        """The turn in the form of shards."""
        return {"role": self.role, "content": self.text}


def take_turn(turn: object, number: int, reading: Reading, role: str | None = None) -> Turn:
    """Reads a turn.

    Args:
        turn: The turn in the annotation.
        number: Its number, from 1.
        reading: How annotations are read.
        role: Its role if it names none.

    Raises:
        Refused: It is no turn, has both notations, an unknown role, or a feature that training does not support.
    """
    given = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    used = [notation for notation in _NOTATIONS if any(key in given for key in notation)]
    if len(used) != 1:
        what = "has both 'role' or 'content' and 'from' or 'value'" if used else "is not"
        form = "" if used else " {'role': ROLE, 'content': TEXT or PARTS} or {'from': ROLE, 'value': TEXT}"
        raise Refused("bad_field", f"turn {number} {what}{form}")
    name, content = used[0]
    role = _role(given.get(name, role), number)
    check_turn(given, role, number)
    read = read_content(given.get(content), role, number)
    text = with_reasoning(given, read.text, role, number, reading.reasoning)
    known = (name, content, *REASONING_KEYS, *CHECKED_IN_TURNS)
    rest = {key: value for key, value in given.items() if key not in known}
    if any(read.rest):
        rest["parts"] = read.rest
    unknown = [f"turns.{key}" for key in unknown_keys(given, TURN_KEYS, known)]
    return Turn(role, text, read.images, read.videos, rest, unknown + [f"parts.{key}" for key in read.unknown])


def _role(name: object, number: int) -> str:
    if not isinstance(name, str) or name not in ROLES:
        raise Refused("roles", f"turn {number} has the role {str(name)[:40]!r}, which is none of {', '.join(ROLES)}")
    return ROLES[name]
