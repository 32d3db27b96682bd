"""Detection of annotation keys of other programs that training does not support; such samples are skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.data.convert.refused import Refused

_TRAINED = ("weight", "loss", "train")
"""Keys for the loss weight of a turn: OpenAI's, XTuner's and other programs'."""
_TURN = ("tool_calls", "function_call", "audio")
_LOSS_SWITCHES = ("loss_scale", "trainable")
"""Keys of other programs whose value 0 or false takes a turn out of the loss."""
_GOOD = ("label", "kto_tag")
"""Keys of KTO samples (arXiv 2402.01306): whether the answer is a good one."""
_SAMPLE = ("tools", "functions")
CHECKED = (*_TRAINED, *_GOOD, *_SAMPLE)
"""Keys of a sample that `check_sample` knows."""
CHECKED_IN_TURNS = (*_TRAINED, *_LOSS_SWITCHES, "mask", *_TURN)
"""Keys of a turn that `check_turn` knows."""


def check_turn(turn: Mapping[str, Any], role: str, number: int) -> None:
    """Checks that a turn has no tool call, no audio and no loss weight.

    Args:
        turn: The turn in the annotation.
        role: Its role; only the assistant's turns are trained on.
        number: Number of the turn, from 1.

    Raises:
        Refused: The turn has such a key.
    """
    for key in (*_TRAINED, *_LOSS_SWITCHES):
        value = turn.get(key)
        if role == "assistant" and value is not None and value != 1:  # true is 1
            reason = f"turn {number} has {key!r}: {_short(value)}, but all answers have the same weight in training"
            raise Refused("unsupported", reason)
        if role != "assistant" and value is True:
            raise Refused("unsupported", f"turn {number} has {key!r}: true, but only answers are trained on")
    if role == "assistant" and turn.get("mask") not in (None, False, 0):
        raise Refused(
            "unsupported", f"turn {number} has 'mask': {_short(turn['mask'])}, but all answers are trained on"
        )
    for key in _TURN:
        if _is_set(turn.get(key)):
            raise Refused("unsupported", f"turn {number} has {key!r}, which training does not support")


def check_sample(sample: Mapping[str, Any]) -> None:
    """Checks that a conversation has no tools, and is not excluded from training.

    Raises:
        Refused: The sample has such a key.
    """
    for key, value in ((key, sample.get(key)) for key in _TRAINED):
        # "loss": 0.3 may be a measured loss
        if value is not None and (value is False if key == "loss" else value != 1):
            what = "excludes it from training" if not value else "is not supported: all samples have the same weight"
            raise Refused("unsupported", f"the sample has {key!r}: {_short(value)}, which {what}")
    for key in _GOOD:
        if sample.get(key) not in (None, 1):  # true is 1
            reason = f"the sample has {key!r}: {_short(sample[key])}: only true marks its answer as a good one"
            raise Refused("unsupported", reason)
    for key in _SAMPLE:
        if _is_set(sample.get(key)):
            raise Refused("unsupported", f"the sample has {key!r} beside its turns, which training does not support")


def _is_set(value: object) -> bool:
    return bool(value) and value not in ("[]", "{}")


def _short(value: object) -> str:
    return str(value).lower()[:40] if isinstance(value, bool) else repr(value)[:40]
