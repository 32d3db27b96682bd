"""Extraction of the chosen option's letter from a response."""

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
"""After a letter: a second letter, so that neither is chosen."""
_NOUN = re.compile(r"\s+(?!(?:or|and|is|was|because|since|as|but|not|seems|looks|must|would|should|cannot|can)\b)[a-z]")
"""After "a" or "I": a word that makes it an article or a pronoun."""
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
"""Characters before an option that are searched for a negation."""
_THOUGHT = re.compile(r"<think>.*", re.DOTALL)


def spoken(response: str) -> str:
    """Returns a response without its reasoning between `<think>` and `</think>`."""
    return _THOUGHT.sub("", response.rpartition("</think>")[2])


def stated(text: str, allowed: Collection[str]) -> str | None:
    """Returns the upper-case letter that a text states as its answer; None if there is none.

    The first match counts: the complete text is a letter; the last letter in a box; the last letter after "answer is"
    or "answer:"; a letter with a bracket or a full stop at the start; the last letter after "option", "choice" or
    "answer". Negated letters ("not option C", "option C is wrong") and letters joined by "or" are ignored.

    Args:
        text: See `spoken`.
        allowed: Upper-case letters of the options.
    """
    led = _LED.match(text)
    ranks = (
        only_letter(text),
        _last(_BOXED, text, allowed),
        _last(_STATED, text, allowed),
        next(group for group in led.groups() if group).upper() if led else None,
        _last(_NAMED, text, allowed),
    )
    return next((letter for letter in ranks if letter is not None and letter in allowed), None)


def alone(text: str, allowed: Collection[str]) -> str | None:
    """Returns the only isolated letter that is not negated; None if there are none or several."""
    found = {match[1] for match in _ALONE.finditer(text) if not _is_word(match)} & set(allowed)
    left = found - {match[1] for match in _ALONE.finditer(text) if _is_denied(match)}
    return left.pop() if len(left) == 1 else None


def only_letter(text: str) -> str | None:
    """Returns the upper-case letter that the complete text consists of; None if it is anything else."""
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
    """Whether the letter is an article or a pronoun, as in "The answer is a dog"."""
    return match[1] in "aAI" and _NOUN.match(match.string, match.end(1)) is not None


def _is_denied(match: re.Match[str]) -> bool:
    text, begin, end = match.string, match.start(1), match.end(1)
    if _DENIED_BEHIND.match(text, end):
        return True
    return _DENIED_BEFORE.search(text[max(0, begin - _NEAR) : begin]) is not None
