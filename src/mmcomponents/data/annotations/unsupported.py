"""Keys that mean something to other programs and that training here would pass over: such samples are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.data.annotations.refused import Refused

_TRAINED = ("weight", "loss", "train")
"""Say of a turn whether, or how much, it is trained on: OpenAI's, XTuner's and other programs'."""
_TURN = ("tool_calls", "function_call", "audio")
_SAMPLE = ("tools", "functions", "system")
_HINTS = {"system": "; make it the first turn, of role system"}


def check_turn(turn: Mapping[str, Any], role: str, number: int) -> None:
    """Refuses a turn that calls a tool, speaks, or that is not to be trained on like any other.

    Args:
        turn: As the annotation has it.
        role: What it became; only the assistant's turns are trained on.
        number: From 1 on.

    Raises:
        Refused: It has such a key.
    """
    for key in _TRAINED:
        value = turn.get(key)
        if role == "assistant" and value is not None and value != 1:  # true is 1
            told = f"turn {number} has {key!r}: {_short(value)}, but all answers are trained on alike"
            raise Refused("unsupported", told)
    for key in _TURN:
        if _is_said(turn.get(key)):
            raise Refused("unsupported", f"turn {number} has {key!r}, of which training here knows nothing")


def check_sample(sample: Mapping[str, Any]) -> None:
    """Refuses a conversation that describes tools, has a system text beside its turns, or is not to be trained on.

    Raises:
        Refused: It has such a key.
    """
    for key, value in ((key, sample.get(key)) for key in _TRAINED):
        if value is False or (key == "weight" and value == 0):  # a loss of 0 may be one that somebody measured
            raise Refused("unsupported", f"the sample has {key!r}: {_short(value)}, so it is not to be trained on")
    for key in _SAMPLE:
        if _is_said(sample.get(key)):
            hint = _HINTS.get(key, ", of which training here knows nothing")
            raise Refused("unsupported", f"the sample has {key!r} beside its turns{hint}")


def _is_said(value: object) -> bool:
    return bool(value) and value not in ("[]", "{}")


def _short(value: object) -> str:
    return str(value).lower()[:40] if isinstance(value, bool) else repr(value)[:40]
