r"""Parsing of numbers in text: signs, thousands, decimals, powers, fractions, percent. Nothing is evaluated as code.

Terms with a root or pi, and fractions of anything but numbers, are matched as terms that are not numbers: the value of
$3\sqrt{2}$ is neither 3 nor 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

_DIGITS = r"(?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?:[ \u00a0\u2009\u202f][0-9]{3})+)(?![0-9])|[0-9]+)"
_BRACES = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?=[-+.0-9\\√π])                                    # possible first characters: skips most letters quickly
    (?P<sign>(?<![\w)\]}}.])-|(?<![\w)\]}}.])\+)?      # after a number or a word it is an operator
    (?<![\w.^])(?<!\^[-+])(?<!\^\{{)(?<!\^\{{[-+])      # after a caret it is a power of a unit
    (?:
        (?:(?P<mixed>[0-9]+)\s*)?\\[dt]?frac\s*\{{\s*(?P<above>-?{_DECIMAL})\s*\}}\s*\{{\s*(?P<below>-?{_DECIMAL})\s*\}}
      | (?:(?P<with>[0-9]+)\s*)?\\[dt]?frac\s*(?P<one>[0-9])\s*(?P<two>[0-9])
      | (?P<term>
          (?:{_DECIMAL}\s*(?:\*\s*)?)?(?:\\sqrt\s*(?:\[[0-9]+\]\s*)?(?:{_BRACES}|[0-9])|√\s*\(?[0-9.]*\)?|\\pi(?![a-z])|π)
          (?:\s*/\s*{_DECIMAL})?
        | (?:{_DECIMAL}\s*)?\\[dt]?frac\s*{_BRACES}\s*{_BRACES}
        )
      | (?:(?P<whole>[0-9]+)\s+)?(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})(?!\s*/)
      | (?P<plain>{_DECIMAL})(?:
          [eE](?P<power>[+-]?[0-9]{{1,3}})
        | \s*\^\s*(?:\{{(?P<hat>[+-]?[0-9]+)\}}|(?P<bare>[+-]?[0-9]+))
        | \s*\*\s*10\s*\^\s*\{{?(?P<ten>[+-]?[0-9]{{1,3}})\}}?
        )?
    )
    (?P<percent>\s?%)?
    """,
    re.VERBOSE,
)
_SPELLING = (
    (re.compile("[−–‒﹣－]"), "-"),
    (re.compile(r"\\(?:times|cdot)\b\s*|×\s*"), "*"),
    (re.compile(r"\\[,!;: ]|\\left|\\right"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\%|％"), "%"),
    (re.compile(r"\\?[$€£¥]"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}"), r" \1"),
    (re.compile("~"), " "),
    (re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degrees?)(?![a-z])|\s+degrees?(?![a-z])", re.I), "°"),
)
_POWERS = {"square ": "2", "sq ": "2", "sq. ": "2", "cubic ": "3", "cu ": "3", "cu. ": "3"}
_UNIT = re.compile(
    r"[\s.°'\"*]*|\s*°?\s*(?:(?:square|sq\.?|cubic|cu\.?)\s+)?[^\W\d_]+(?:[²³]|\^\{?[23]\}?|[23])?"
    r"(?:\s*/\s*[^\W\d_]+[²³23]?)?\s*\.?"
)
_BRACKETS = re.compile(r"\(([^()]*)\)")
_PLURAL = 3
"""Minimum length of the singular of a unit; the final s of a longer unit is a plural."""
_LONGEST = 4000
"""Maximum number of digits of a number; `int` accepts at most 4300."""
_BASE = 20
"""Maximum number of digits of the base of a power."""
_POWER = 400
"""Largest exponent."""


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value: Exact value; 50 for 50 %.
        percent: Whether a percent sign follows.
        text: The number as written.
        unit: Normalized unit after the number; "" if there is none or it is not parsed.
    """

    value: Fraction
    percent: bool
    text: str
    unit: str = ""

    def equals(self, true: Number, tolerance: float = 0.0) -> bool:
        """Whether the values agree. If only one has a percent sign, 50 % equals both 50 and 0.5.

        Args:
            true: Reference number.
            tolerance: Largest error relative to `true`.
        """
        scales = [Fraction(1)]
        if self.percent != true.percent:
            scales.append(Fraction(1, 100) if self.percent else Fraction(100))
        return any(abs(self.value * s - true.value) <= abs(true.value) * Fraction(tolerance) for s in scales)


def last_number(text: str) -> Number | None:
    """Returns the last number of a text; None if there is none or the last term is not a number."""
    last = None
    for found in _NUMBER.finditer(_plain(text)):
        last = None if found["term"] else _read(found) or last
    return last


def whole_number(text: str) -> Number | None:
    """Returns the number that the complete text consists of, optionally with a unit; None for any other text."""
    plain = _plain(text).strip()
    plain = plain.partition("=")[2].strip() if re.match(r"[A-Za-z]\s*=", plain) else plain
    if in_brackets := _BRACKETS.fullmatch(plain):
        plain = in_brackets[1].strip()
    found = _NUMBER.match(plain)
    if found is None or not _UNIT.fullmatch(plain[found.end() :]):
        return None
    number = _read(found)
    return None if number is None else replace(number, unit=_unit(plain[found.end() :]))


def _unit(text: str) -> str:
    """Normalizes a unit: removes spaces, carets and the plural s, folds case, and writes "square feet" as "feet2"."""
    text = text.strip().casefold()
    for word, power in _POWERS.items():
        if text.startswith(word):
            return _unit(text.removeprefix(word)) + power
    unit = re.sub(r"[\s.\"*^{}]", "", text).casefold().replace("²", "2").replace("³", "3")
    return unit[:-1] if len(unit) > _PLURAL and unit.endswith("s") and not unit.endswith("ss") else unit


def _plain(text: str) -> str:
    for pattern, to in _SPELLING:
        text = pattern.sub(to, text)
    return text


def _read(found: re.Match[str]) -> Number | None:
    part = found.groupdict()
    if part["term"] or max(map(len, filter(None, part.values())), default=0) > _LONGEST:
        return None
    above, below = part["above"] or part["one"] or part["over"], part["below"] or part["two"] or part["under"]
    if above is not None and below is not None:
        if not _fraction(below):
            return None
        value = _fraction(above) / _fraction(below)
        whole = part["whole"] or part["mixed"] or part["with"]  # 3 1/2 is three and a half, as in Math-Verify
        value += int(whole or 0)
    else:
        value = _fraction(part["plain"]) * Fraction(10) ** int(part["power"] or part["ten"] or 0)
        if power := part["hat"] or part["bare"]:
            if abs(int(power)) > _POWER or len(part["plain"]) > _BASE or (not value and int(power) < 0):
                return None
            value **= int(power)
    if (part["sign"] or "").startswith("-"):
        value = -value
    return Number(value, part["percent"] is not None, found.group().strip())


def _fraction(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", text))
