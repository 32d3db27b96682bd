"""Extraction of the chosen option's letter from a response."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from unicodedata import normalize

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
_CHOSEN = re.compile(
    r"(?:\b(?:I(?:'d| would|'ll| will)? (?:say|choose|pick|select|prefer|go with|go for)|I am choosing"
    rf"|(?:it|this) (?:is|must be|has to be))|应选|应该选|故选|所以选)\s*(?:(?:option|choice|选项)\s*)?{_LETTER}"
    r"|(?<![A-Za-z0-9'])([A-Z])[)\]*_]*\s+(?:is|seems|looks)\s+(?:to be\s+)?(?:the\s+)?(?:correct|right|best)",
    re.I,
)
"""A letter that is chosen in other words than "the answer is"."""
_ALONE = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")
_JOIN = (
    r"(?:[,，、;]\s*(?:and\b|or\b|nor\b|&|和|或)?|and (?:also\b)?|and\b|or (?:maybe |also )?|or\b|nor\b|as well as\b"
    r"|vs\.?|[/&+|]|或者|以及|和|或|与|跟|加)"
)
_NEXT = re.compile(
    rf"[)\]*_\"'$]*(?:\s*\([^()]{{1,40}}\))?\s*(?P<join>{_JOIN}|(?<=\))(?=\())"
    r"\s*(?:(?:option|choice|选项)\s+)?[*_(\[\"'$]*([A-Za-z])(?![A-Za-z0-9'])",
    re.I,
)
"""After a letter: the next letter of a list, as in "A, B and C"."""
_PREVIOUS = re.compile(
    rf"(?<![A-Za-z0-9'])[A-Z][)\]*_\"'$]*(?:\s*\([^()]{{1,40}}\))?\s*{_JOIN}\s*(?:(?:option|choice|选项)\s+)?[*_(\[\"'$]*$"
)
"""Before a letter: the letter before it in a list."""
_JOINED = re.compile("and|or|nor|as|vs|[/&+|或和、与跟加以]", re.I)
"""Joins the last letters of a list; a comma alone may also end a clause."""
_LINE = re.compile(r"^\s*(?:[-*•]\s+)?[*_(\[]*([A-Z])[*_)\]]*\s*[).:,]", re.M)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_NOUN = re.compile(
    r"\s+(?!(?:or|and|is|was|because|since|as|but|not|over|than|rather|instead|vs|seems|looks|must|would|should|cannot"
    r"|can)\b)[a-z]"
)
"""After "a" or "I": a word that makes it an article or a pronoun."""
_VERB = re.compile(r"'|\s+(?!(?:or|and|is|was)\b)[a-z]")
"""After "I": a word that makes it a pronoun."""
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot be|can't be|isn't|wasn't|neither|nor|never|no longer|unlikely to be|rather than|instead of"
    r"|than|over|unlike|rules? out|ruling out|exclud(?:e|es|ing)|eliminat(?:e|es|ing))"
    r"|(?:not|never|n't) (?:choose|pick|select|go with)"
    r"|并非|不是|不选|不能选|不应选|不应该选|不可能是|排除)"
    r"\s*(?:be\s+)?(?:(?:the\s+)?(?:answer|option|choice|选项)\s*)?[*_(\[\"'$]*$",
    re.I,
)
_DENIED_CLAUSE = re.compile(
    r"(?:(?:\b(?:not|never)\b|n't)(?!\s+(?:sure|certain)\b)\s+"
    r"(?:(?!(?:but|so|because|however|therefore|hence)\b)[\w']+\s+){0,4}(?:the\s+)?|\b(?:wrong|incorrect|false)\s+)$",
    re.I,
)
"""Before "the answer is": the clause is denied, as in "I do not think the answer is"."""
_DENIED_BEHIND = re.compile(
    r"[)\]*_\"'$]*\s*(?:\?\s*(?:no|nope|不)\b|,?\s*(?:(?:is|was|are|seems|looks|must be|would be)\s+(?:\w+ly\s+)?"
    r"(?:not\b|wrong|incorrect|false|unlikely|impossible|out\b|excluded|eliminated|ruled out)|isn't|wasn't|cannot|can't"
    r"|can be (?:ruled out|excluded|eliminated)|does not|doesn't|(?:肯定|明显|显然|也)?(?:不对|不正确|错|是错|不是)))",
    re.I,
)
_DENIED_ALL = re.compile(
    r"[)\]*_\"'$]*\s*,?\s*(?:(?:are|were|seem|look)\s+(?:all\s+|both\s+|\w+ly\s+)?(?:not\b|wrong|incorrect|false"
    r"|impossible|out\b|excluded|eliminated|ruled out)|aren't|weren't|cannot|can't"
    r"|can (?:all |both )?be (?:ruled out|excluded|eliminated)|do not|don't|都不|都错|不对|不正确|错)",
    re.I,
)
"""After the last letter of a list: all of them are denied."""
_NEAR = 40
"""Characters before an option that are searched for a negation."""
_THOUGHT = re.compile(r"<think>.*", re.DOTALL)


def spoken(response: str) -> str:
    """Returns a response without its reasoning between `<think>` and `</think>`, with full-width letters as others."""
    return normalize("NFKC", _THOUGHT.sub("", response.rpartition("</think>")[2]))


def stated(text: str, allowed: Collection[str]) -> str | None:
    """Returns the upper-case letter that a text states as its answer; None if there is none.

    The first match counts: the complete text is a letter; the last letter in a box; the last letter after "answer is"
    or "answer:"; a letter with a bracket or a full stop at the start; the last letter after "I choose", "it must be" or
    before "is correct"; the last letter after "option", "choice" or "answer". Denied letters ("not option C", "A, B and
    C are wrong") and letters of a list ("A, B", "A or B") are no answers, and neither is a text that lists options
    ("A. a cat", "B. a dog" in lines of their own).

    Args:
        text: See `spoken`.
        allowed: Upper-case letters of the options; a mapping has their texts too.
    """
    ranks = (
        only_letter(text),
        _last(_BOXED, text, allowed),
        _last(_STATED, text, allowed),
        _led(text, allowed),
        _last(_CHOSEN, text, allowed),
        _last(_NAMED, text, allowed),
    )
    return next((letter for letter in ranks if letter is not None and letter in allowed), None)


def _led(text: str, allowed: Collection[str]) -> str | None:
    """Returns the letter at the start of a text that does not list several options."""
    led = _LED.match(text)
    if led is None:
        return None
    place = next(number for number, group in enumerate(led.groups(), start=1) if group)
    marked = {match[1] for match in _LINE.finditer(text) if match[1] in allowed and not _is_denied(match)}
    bracketed = list(dict.fromkeys(match[1] for match in _BRACKETED.finditer(text)))
    in_order = len(bracketed) > 2 and bracketed[0] == "A" and all(ord(b) - ord(a) == 1 for a, b in pairwise(bracketed))
    if len(marked) > 1 or in_order or _repeated(text, allowed) > 1:
        return None
    if _is_denied(led, place) or _is_listed(led, allowed, place):
        return None
    return led[place].upper()


def _repeated(text: str, allowed: Collection[str]) -> int:
    """Counts the options that a text repeats with letter and text, and does not deny."""
    if not isinstance(allowed, Mapping):
        return 0
    found = 0
    for letter, option in allowed.items():
        words = r"\s+".join(map(re.escape, str(option).split()))
        match = re.search(rf"(?<![A-Za-z0-9])({letter})[)\].:]\s*{words}(?!\w)", text, re.I) if words else None
        found += match is not None and not _is_denied(match)
    return found


def alone(text: str, allowed: Collection[str]) -> str | None:
    """Returns the only isolated letter that is not negated; None if there are none or several."""
    found = {match[1] for match in _ALONE.finditer(text) if not _is_word(match)} & set(allowed)
    left = found - {match[1] for match in _ALONE.finditer(text) if _is_denied(match)}
    for pattern in (_STATED, _NAMED):  # "I do not think the answer is A"
        left -= {match[1].upper() for match in pattern.finditer(text) if _is_denied_clause(match)}
    return left.pop() if len(left) == 1 else None


def only_letter(text: str) -> str | None:
    """Returns the upper-case letter that the complete text consists of; None if it is anything else."""
    only = _ONLY.fullmatch(text)
    return only[1].upper() if only else None


def _last(pattern: re.Pattern[str], text: str, allowed: Collection[str]) -> str | None:
    found = None
    for match in pattern.finditer(text):
        group = next(number for number, value in enumerate(match.groups(), start=1) if value)
        letter = match[group].upper()
        if letter not in allowed or _is_word(match, group) or _is_denied(match, group):
            continue
        several = _repeated(text[match.start() :].partition("\n")[0], allowed) > 1
        if not (_is_denied_clause(match) or several or _is_listed(match, allowed, group) or _ends_list(match, group)):
            found = letter
    return found


def _is_word(match: re.Match[str], group: int = 1) -> bool:
    """Whether the letter is an article or a pronoun, as in "The answer is a dog"."""
    pattern = _VERB if match[group] == "I" else _NOUN
    return match[group] in "aAI" and pattern.match(match.string, match.end(group)) is not None


def _following(match: re.Match[str], group: int = 1) -> list[re.Match[str]]:
    """Returns the letters that continue a list which begins with a letter."""
    found: list[re.Match[str]] = []
    end = match.end(group)
    while (following := _NEXT.match(match.string, end)) and not _is_word(following, 2):
        found.append(following)
        end = following.end(2)
    return found


def _is_listed(match: re.Match[str], allowed: Collection[str], group: int = 1) -> bool:
    """Whether a letter begins a list with another option that is not denied."""
    text = match.string
    return any(
        (other[2].upper() in allowed or _JOINED.search(other["join"])) and not _DENIED_BEHIND.match(text, other.end(2))
        for other in _following(match, group)
    )


def _ends_list(match: re.Match[str], group: int = 1) -> bool:
    """Whether another letter precedes a letter in a list, as in "option A as well as option C"."""
    text, begin = match.string, match.start(group)
    previous = _PREVIOUS.search(text[max(0, begin - _NEAR) : begin])
    if previous is None:
        return False
    place = max(0, begin - _NEAR) + previous.start()
    return _JOINED.search(previous[0][1:]) is not None and not _denied_before(text, place)


def _is_denied(match: re.Match[str], group: int = 1) -> bool:
    text, begin, end = match.string, match.start(group), match.end(group)
    if _DENIED_BEHIND.match(text, end) or _denied_before(text, begin):
        return True
    following = _following(match, group)
    if following and _DENIED_ALL.match(text, following[-1].end(2)):
        return True
    is_joined = any(_JOINED.search(other["join"]) for other in following)
    while previous := _PREVIOUS.search(text[max(0, begin - _NEAR) : begin]):  # "not A, B or C" denies all three
        is_joined = is_joined or _JOINED.search(previous[0][1:]) is not None
        begin = max(0, begin - _NEAR) + previous.start()
        if is_joined and _denied_before(text, begin):
            return True
    return False


def _is_denied_clause(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _NEAR) : match.start()]
    return _DENIED_CLAUSE.search(before) is not None


def _denied_before(text: str, begin: int) -> bool:
    return _DENIED_BEFORE.search(text[max(0, begin - _NEAR) : begin]) is not None
