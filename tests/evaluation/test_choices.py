from __future__ import annotations

import pytest

from growth import MOST, growth
from mmcomponents.evaluation.checkers import MultipleChoice
from mmcomponents.evaluation.choices import alone, only_letter, spoken, stated
from mmcomponents.evaluation.metrics import MultipleChoice as Metric
from mmcomponents.evaluation.metrics import Target

TARGET = Target(("B",), {"A": "a cat", "B": "a dog", "C": "a bird", "D": "a horse"})

SAID = [
    ("The answer is B. Option A is wrong because there is no cat.", "B"),
    ("Option B is correct. Option C is incorrect.", "B"),
    ("The answer is B, not option C.", "B"),
    ("B. The choice A would need whiskers.", "B"),
    ("answer is B\n\nExplanation: the answer A is wrong", "B"),
    ("<think>Option A?</think>B", "B"),
    ("Option A?\n</think>\nB", "B"),
    ("<think>the answer is A", None),  # cut off before the answer
    ("So the answer cannot be A. It is B.", "B"),
    ("The answer is not A. It is B", "B"),
    ("The correct answer is not A but B", "B"),
    ("The answer isn't A. Option B", "B"),
    ("Option A is wrong, so B", "B"),
    ("Neither A nor C: B", "B"),
    ("Option A is clearly wrong; option C can be ruled out.", None),
    ("I think it is B", "B"),
    ("I choose B", "B"),
    ("The correct option is B", "B"),
    ("The correct choice would be B.", "B"),
    ("Answer:\nB", "B"),
    ("**Answer:** B", "B"),
    ("Answer: $B$", "B"),
    ("$B$", "B"),
    ("The answer is: (B) a dog", "B"),
    ("The answer is option **B**.", "B"),
    (r"The answer is \boxed{B}. Option A shows a cat.", "B"),
    ("正确答案是B", "B"),
    ("答案：B", "B"),
    ("选B", "B"),
    ("答案不是A，选B", "B"),
    ("I'd say B. Option C would need a hat.", "B"),
    ("B is correct because option A lacks it", "B"),
    ("It must be B, as option C is blue.", "B"),
    ("I choose B over option A", "B"),
    ("I pick option B over option A", "B"),
    ("I prefer option B to option A", "B"),
    ("The answer is A? No, it's B", "B"),
    ("The answer is no longer A but B", "B"),
    ("答案并非A，而是B", "B"),
    ("I am not sure but the answer is B", "B"),
    ("I do not think the answer is A", None),
    ("It is not true that the answer is A", None),
    ("The answer is unlikely to be A", None),
    ("The wrong answer is A", None),
    ("I would not choose option A", None),
    ("Don't pick option A", None),
    ("Would the answer be A? No.", None),
    ("不能选A", None),
    ("答案不可能是A", None),
    ("The answer is A as well as C", None),
    ("option A as well as option C", None),
    ("The answer is A (cat) and C (red bird)", None),
    ("The answer is A or maybe C", None),
    ("The answer is A + C", None),
    ("(A)(C)", None),
    ("答案是A与B", None),
    ("答案是A或者B", None),
    ("A, B and C are wrong, so D", "D"),
    ("It is not A, B or C. So D", "D"),
    ("Not A and not C, so B", "B"),
    ("Neither A, C nor D: B", "B"),
    ("Options A, C and D can be ruled out: B", "B"),
    ("The answer is B, C is wrong", "B"),
    ("The answer is B, A dog is seen", "B"),
    ("B, I think", "B"),
    ("B, because A and C have no tail", "B"),
    ("(B) and not (A)", "B"),
    ("(B) because (A) and (C) are blue", "B"),
    ("The answer is A or B", None),
    ("A and B", None),
    ("A, B", None),
    ("a, b", None),
    ("A, B, C and D", None),
    ("Answer: A, B", None),
    ("Answer: (A), (B)", None),
    ("答案：A、B", None),
    ("The answer is A, B and C.", None),
    ("A. a cat\nB. a dog\nC. a bird", None),
    ("(A) a cat (B) a dog (C) a bird (D) a horse", None),
    ("Both A and B", None),
    ("no idea", None),
    ("", None),
]


@pytest.mark.parametrize(("response", "letter"), SAID)
def test_the_checker_and_the_metric_find_the_same_letter(response, letter) -> None:
    assert MultipleChoice().extract(response) == letter, response
    if "wrong; option" not in response:
        assert Metric().extract(response, TARGET) == letter


def test_an_article_is_no_letter() -> None:
    assert MultipleChoice()("The answer is a dog", "A") is None
    assert MultipleChoice()("I think of a dog", "A") is None
    assert Metric().extract("The answer is a dog", TARGET) == "B"  # by its text
    assert MultipleChoice()("The answer is a", "A") is True


def test_other_letters_do_not_count() -> None:
    assert stated("The answer is K", "ABC") is None
    assert alone("A K", "ABC") == "A"
    assert only_letter(" (b). ") == "B"
    assert only_letter("bc") is None
    assert spoken("<think>a</think> b <think> c") == " b "


@pytest.mark.parametrize(
    "piece", ["answer is ", "answer" + " " * 500, "答案" + ": " * 500, "not A ", "(", "\\boxed{" + " " * 500, "<think>"]
)
def test_long_texts_take_no_time(piece) -> None:
    assert growth(MultipleChoice().extract, lambda length: piece * (length // len(piece)), 20_000) < MOST
