from __future__ import annotations

from fractions import Fraction

import pytest

from growth import MOST, growth
from mmcomponents.evaluation.numbers import last_number, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10^-3", "0.001"),
        ("10^{-3} m", "0.001"),
        ("2^10", "1024"),
        (r"2.5 \times 10^{3}", "2500"),
        (r"30^{\circ}", "30"),
        ("1 000 000", "1000000"),
        (r"3\frac{1}{2}", "7/2"),
        (r"x = 2 \frac{3}{4}", "11/4"),
        (r"2\frac34", "11/4"),
        (r"-1\frac{1}{2}", "-3/2"),
        (r"3\frac{\sqrt{3}}{2}", None),
        ("12 345 apples", "12345"),
        ("in 2019 100 people", "100"),
        ("7 and 100", "100"),
        (r"3\sqrt{2}", None),
        (r"x = 5, so 3\sqrt{2}", None),
        (r"\frac{\sqrt{3}}{2}", None),
        (r"\frac{x}{2}", None),
        (r"2\pi", None),
        ("2π", None),
        ("√2 = 1.4", "1.4"),
        ("12 m s^{-1}", "12"),
        ("12 m s^-1", "12"),
        ("0^-1", None),
        ("9^999999", None),
    ],
)
def test_the_last_number(text, value) -> None:
    found = last_number(text)
    assert (None if found is None else found.value) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("(-3)", -3, ""),
        ("(−3 m)", -3, "m"),
        ("5 cm^2", 5, "cm2"),
        ("5 cm^{2}", 5, "cm2"),
        ("5 cm²", 5, "cm2"),
        ("2 Apples.", 2, "apple"),
        (r"3 \text{gas}", 3, "gas"),
        (r"30^\circ", 30, "°"),
        (r"30^{\circ}", 30, "°"),
        ("30 degrees", 30, "°"),
        (r"30\degree", 30, "°"),
        (r"10^\circ\text{C}", 10, "°c"),
        ("10 degrees C", 10, "°c"),
        ("10 °C", 10, "°c"),
        (r"\$5", 5, ""),
        (r"5 \mathrm{~cm}", 5, "cm"),
        ("12 square feet", 12, "feet2"),
        ("3 cubic metres", 3, "metre3"),
        ("10^-3", Fraction(1, 1000), ""),
    ],
)
def test_a_whole_number_with_its_unit(text, value, unit) -> None:
    found = whole_number(text)
    assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize("text", [r"3\sqrt{2}", "2π", "(3", "(1)(2)", "7 or 8"])
def test_what_is_no_whole_number(text) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize("piece", ["1 ", "1" + " " * 999, "1 111", r"\frac{", r"\sqrt{", "2^9", "1,", "{}"])
def test_long_texts_take_no_time(piece) -> None:
    assert growth(last_number, lambda length: piece * (length // len(piece)), 20_000) < MOST
