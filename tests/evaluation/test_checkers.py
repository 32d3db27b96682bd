from __future__ import annotations

import json
from pathlib import Path

import pytest

from growth import MOST, growth
from mmcomponents.evaluation.checkers import (
    BoxedAnswer,
    ExactAnswer,
    FinalAnswer,
    MultipleChoice,
    NumericAnswer,
    PlainAnswer,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "h_visualprm.json").read_text(encoding="utf-8"))["answers"]


@pytest.mark.parametrize("case", [case for case in GOLDEN if "box" in case["fn"]])
def test_boxes_as_in_the_released_code(case) -> None:
    assert BoxedAnswer().truth(case["in"]) == case["out"]


@pytest.mark.parametrize("case", [case for case in GOLDEN if "mpo" in case["fn"]])
def test_final_answers_as_in_the_released_code(case) -> None:
    wanted = None if "raises" in case["out"] else tuple(case["out"])
    assert FinalAnswer().split(case["in"]) == wanted


@pytest.mark.parametrize("case", [case for case in GOLDEN if "choice" in case["fn"]])
def test_choices_as_in_the_released_code(case) -> None:
    assert MultipleChoice()(*case["in"]) is case["out"]


def test_there_are_golden_cases() -> None:
    assert sum(any(word in case["fn"] for word in ("box", "mpo", "choice")) for case in GOLDEN) == 8


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        (r"\boxed{\frac{1}{2}}", True),
        (r"first \boxed{3}, no: \boxed{0.50}", True),
        (r"\boxed{ 1/2 }", True),
        (r"\boxed{50\%}", True),
        (r"\boxed{5}", False),
        (r"\boxed{}", None),
        (r"\boxed{1/2", None),
        ("1/2", None),
    ],
)
def test_boxed(response, wanted) -> None:
    assert BoxedAnswer()(response, "1/2") is wanted


def test_braces_in_a_box() -> None:
    assert BoxedAnswer().extract(r"\boxed{a{b{c}}d} e}") == "a{b{c}}d"
    assert BoxedAnswer().extract(r"\boxed{\{1\}}") == r"\{1\}"
    assert BoxedAnswer(ExactAnswer())(r"\boxed{0.5}", r"\boxed{1/2}") is False


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ("3 + 4 = 7\n\nAnswer: 7", True),
        ("Answer: 3\n\n**Final answer:** 7.0", True),
        ("答案：7 \n", True),
        ("Answer: 8", False),
        ("Answer: seven", False),
        ("The answer is 7", None),
        ("Answer: 7\nSo it is.", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_final(response, wanted) -> None:
    assert FinalAnswer()(response, "Adding up.\nAnswer: 7") is wanted
    assert FinalAnswer()(response, "7") is wanted


def test_a_final_answer_in_brackets_or_emphasis() -> None:
    assert FinalAnswer()("Final answer: (-3)", "-3") is True
    assert FinalAnswer()("**Final answer: 7 pm** \u3000", "7 am") is False
    assert FinalAnswer()("**Final answer: 7 pm**_ ", "7 pm") is True
    assert FinalAnswer().extract("Final answer: x" + "*" * 50_000 + "x") is not None
    assert growth(FinalAnswer().extract, lambda length: "Final answer: x" + "*" * length + "x", 50_000) < MOST


def test_parsed_answers_compare_as_texts_do() -> None:
    texts = ["7", "7.0", "7 cm", "7 m", "x", "X.", "1/2", "50%"]
    for checker in (ExactAnswer(), PlainAnswer(), NumericAnswer(), BoxedAnswer(), FinalAnswer(NumericAnswer())):
        for one in texts:
            for other in texts:
                same = checker.agree(checker.parse(one), checker.parse(other))
                assert same is checker.same(one, other)


def test_other_markers() -> None:
    assert FinalAnswer(markers=("Result:",))("Result: a", "A") is True
    assert FinalAnswer(markers=("Result:",))("Answer: a", "a") is None
    with pytest.raises(ValueError, match="markers must be non-empty strings"):
        FinalAnswer(markers=(" ",))


@pytest.mark.parametrize(
    ("response", "answer", "wanted"),
    [
        ("It costs $1,234.50 in all.", "1234.5", True),
        ("3 - 5 = -2", "−2", True),
        ("It is 5 - 3", "3", True),
        ("50 %", "0.5", True),
        ("50%", "50", True),
        ("50%", "5", False),
        (r"x = -\dfrac{3}{4}", "-0.75", True),
        ("1 1/2 cups", "1.5", True),
        ("an area of 12 cm^2", "12", True),
        ("2.5e3", "2500", True),
        (r"2.5 \times 10^{3} m", "2500", True),
        ("1/0", "0", None),
        ("seven", "7", None),
        ("", "7", None),
        ("7", "seven", False),
        ("v2", "2", None),
        ("so it is 10^-3", "-3", False),
        ("so it is 10^{-3}", "0.001", True),
        ("1 000 000", "0", False),
        ("1 000 000", "1,000,000", True),
        (r"so 3\sqrt{2}", "2", None),
    ],
)
def test_numeric(response, answer, wanted) -> None:
    assert NumericAnswer()(response, answer) is wanted


def test_numbers_are_exact_unless_told_otherwise() -> None:
    assert NumericAnswer()("0.333333333333333333", "1/3") is False
    assert NumericAnswer(1e-6)("0.3333333", "1/3") is True
    assert NumericAnswer(0.05)("105", "100") is True
    assert NumericAnswer(0.05)("106", "100") is False
    assert NumericAnswer(0.05)("0.001", "0") is False
    assert NumericAnswer()("9" * 5000, "7") in (False, None)
    with pytest.raises(ValueError, match="tolerance must be at least 0 and less than 1"):
        NumericAnswer(1.5)


@pytest.mark.parametrize(
    ("response", "answer", "wanted"),
    [
        ("A  Cat.", "a cat", True),
        ("3.0 kg", "3", True),
        (r"$\text{yes}$", "Yes", True),
        ("x = 4", "4", True),
        ("4 or 5", "5", False),
        ("12:30", "12:30", True),
        ("5 cm", "5 m", False),
        ("5 cm", "5", True),
        ("5", "5 cm", True),
        ("5 cm²", "5.0 cm^2", True),
        ("7 pm", "7 am", False),
        ("2 apples", "2 pears", False),
        ("1.0 apple", "1 apples", True),
        ("(-3)", "-3", True),
        (r"\boxed{5}", "5.0", True),
        (r"$\boxed{\frac{1}{2}}$.", "0.5", True),
        (r"\boxed{5} or \boxed{6}", "5", False),
        (r"\boxed{}", "5", False),
        ("(B)", "b", True),
        ("(a) or (b)", "a", False),
        ("2π", "2", False),
        ("(1, 2)", "(1,2)", True),
        ("x^2+1", "x^2 + 1", True),
        (r"2\sqrt{3}", r"2\sqrt3", True),
        (r"\left( \dfrac{x}{2} \right)", r"(\frac{x}{2})", True),
        ("(1, 2)", "(12)", False),
        ("a cat", "acat", False),
        (r"\(5\)", "5", True),
        (r"\[5\]", "5", True),
        (r"\text{(B)}", "B", True),
        ("π", r"\pi", True),
        ("√2", r"\sqrt{2}", True),
        ("well known", "wellknown", False),
        ("12 square feet", "12", True),
        ("30 degrees", "30°", True),
        ("30 degrees", "30 cm", False),
        (" ", "", None),
    ],
)
def test_plain(response, answer, wanted) -> None:
    assert PlainAnswer()(response, answer) is wanted


def test_exact() -> None:
    assert ExactAnswer()(" a \n b", "a b") is True
    assert ExactAnswer()("A", "a") is False
    assert ExactAnswer(ignore_case=True)("A", "a") is True
    assert ExactAnswer()("3.0", "3") is False
    assert ExactAnswer()("  ", "a") is None


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. a dog", "B"),
        ("The answer is (C).", "C"),
        ("I think that the answer is: D, a cat", "D"),
        ("A dog", None),
        ("Because", None),
        ("K", None),
        ("", None),
    ],
)
def test_choice(response, wanted) -> None:
    assert MultipleChoice().extract(response) == wanted


def test_a_checker_says_what_it_is() -> None:
    assert (
        repr(FinalAnswer(PlainAnswer(0.1), ["A:"])) == "FinalAnswer(inner=PlainAnswer(tolerance=0.1), markers=['A:'])"
    )
