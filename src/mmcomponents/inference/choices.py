"""Which option a response comes to, by its letter."""

from __future__ import annotations

import re
from collections.abc import Collection

_LETTER = r"[*_(\[\"'$]*([A-Za-z])(?![A-Za-z0-9'])"
_ONLY = re.compile(r"[\s(\[*_\"'$]*([A-Za-z])[\s)\]*_\"'$.:,]*")
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?\(?([A-Za-z])\)?[.:]?\s*\}")
_IS = r"(?:is|was|would be|should be|must be|has to be|will be)"
_STATED = re.compile(
    rf"(?:\b(?:answer|(?:correct|right|best) (?:option|choice))[\s*_]*(?:\b{_IS}\b(?:[\s*_]*[:：])?|[:：])"
    r"|答案(?:[\s*_]*(?:是|为))?(?:[\s*_]*[:：])?)"
    rf"[\s*_]*(?:(?:option|choice|选项)\s+)?{_LETTER}",
    re.I,
)
_LED = re.compile(r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|\**([A-Z])\**\s*[).:,](?![A-Za-z0-9]))")
_NAMED = re.compile(rf"(?:\b(?:answer|option|choice)\b|选项?|选择)(?:[\s*_]*[:：])?\s*{_LETTER}", re.I)
_ALONE = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")
_OTHER = re.compile(r"[)\]*_\"'$]*\s*(?:or|and|/|&|或|和)\s*[*_(\[\"'$]*[A-Z](?![A-Za-z0-9'])")
"""Behind a letter: a second one, so that neither is chosen."""
_NOUN = re.compile(r"\s+(?!(?:or|and|is|was|because|since|as|but|not|seems|looks|must|would|should|cannot|can)\b)[a-z]")
"""Behind an article, or an I: what makes it one."""
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot be|can't be|isn't|wasn't|neither|nor|rather than|instead of|than|unlike"
    r"|rules? out|ruling out|exclud(?:e|es|ing)|eliminat(?:e|es|ing))|不是|不选|排除)"
    r"\s*(?:be\s+)?(?:(?:the\s+)?(?:answer|option|choice|选项)\s*)?[*_(\[\"'$]*$",
    re.I,
)
_DENIED_BEHIND = re.compile(
    r"[)\]*_\"'$]*\s*,?\s*(?:(?:is|was|are|seems|looks|must be|would be)\s+(?:\w+ly\s+)?(?:not\b|wrong|incorrect|false"
    r"|impossible|out\b|excluded|eliminated|ruled out)|isn't|wasn't|cannot|can't"
    r"|can be (?:ruled out|excluded|eliminated)|does not|doesn't|不对|不正确|错|是错|不是)",
    re.I,
)
_NEAR = 40
"""Letters before an option that may deny it."""
_THOUGHT = re.compile(r"<think>.*", re.DOTALL)


def spoken(response: str) -> str:
    """A response without what a model has thought before it, between `<think>` and `</think>`."""
    return _THOUGHT.sub("", response.rpartition("</think>")[2])


def stated(text: str, allowed: Collection[str]) -> str | None:
    """The letter that a text gives for its answer, as a capital; None where it says none.

    In this order: all of it is a letter; the last letter in a box; the last one behind "answer is" or "answer:"; one
    with a bracket or a stop at the begin; the last one behind "option", "choice" or "answer". A letter that is denied
    ("not option C", "option C is wrong"), or that "or" joins with another, is passed over.

    Args:
        text: See `spoken`.
        allowed: Capital letters of the options.
    """
    only = _ONLY.fullmatch(text)
    led = _LED.match(text)
    ranks = (
        only[1].upper() if only else None,
        _last(_BOXED, text, allowed),
        _last(_STATED, text, allowed),
        next(group for group in led.groups() if group).upper() if led else None,
        _last(_NAMED, text, allowed),
    )
    return next((letter for letter in ranks if letter is not None and letter in allowed), None)


def alone(text: str, allowed: Collection[str]) -> str | None:
    """The one letter that stands by itself and is not denied; None where there are none, or several."""
    found = {match[1] for match in _ALONE.finditer(text) if not _is_word(match)} & set(allowed)
    left = found - {match[1] for match in _ALONE.finditer(text) if _is_denied(match)}
    return left.pop() if len(left) == 1 else None


def only_letter(text: str) -> str | None:
    """The letter that a text is, as a capital."""
    only = _ONLY.fullmatch(text)
    return only[1].upper() if only else None


def _last(pattern: re.Pattern[str], text: str, allowed: Collection[str]) -> str | None:
    found = None
    for match in pattern.finditer(text):
        letter = match[1].upper()
        if letter in allowed and not (_is_word(match) or _is_denied(match) or _OTHER.match(text, match.end(1))):
            found = letter
    return found


def _is_word(match: re.Match[str]) -> bool:
    """Whether a letter is an article or a pronoun, as in "The answer is a dog"."""
    return match[1] in "aAI" and _NOUN.match(match.string, match.end(1)) is not None


def _is_denied(match: re.Match[str]) -> bool:
    text, begin, end = match.string, match.start(1), match.end(1)
    if _DENIED_BEHIND.match(text, end):
        return True
    return _DENIED_BEFORE.search(text[max(0, begin - _NEAR) : begin]) is not None
