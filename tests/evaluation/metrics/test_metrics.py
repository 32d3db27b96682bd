from __future__ import annotations

import builtins

import pytest

from mmcomponents.evaluation import checkers as checking
from mmcomponents.evaluation.metrics import (
    ANLS,
    BLEU,
    METRICS,
    ROUGE,
    BoxedMatch,
    ExactMatch,
    FinalMatch,
    GroundingIoU,
    MultipleChoice,
    NumericMatch,
    RelaxedAccuracy,
    Target,
)
from mmcomponents.evaluation.metrics.grounding import iou


def score(metric, response: str, *references: str) -> float:
    return metric.score(response, Target(references))


@pytest.mark.parametrize("metric", METRICS.values())
def test_a_reference_is_right_and_an_empty_response_is_wrong(metric) -> None:
    reference = {"grounding": "<box>[[10, 20, 30, 40]]</box>", "multiple_choice": "B", "boxed": r"\boxed{7}"}
    reference |= {"final": "Answer: 7", "numeric": "7"}
    name = next(name for name, kind in METRICS.items() if kind is metric)
    target = Target((reference.get(name, "one two three four five"),))
    made = metric()
    assert made.check(target) == ""
    assert made.score(target.references[0], target) == pytest.approx(1.0)
    assert made.total([target.references[0]] * 2, [target] * 2) == pytest.approx(1.0)
    assert made.score("", target) == 0.0
    assert made.extract("", target) is None
    assert made.title


def test_exact_match_is_of_the_whole_response() -> None:
    assert score(ExactMatch(), " 1 + 2 = 3 \nAnswer: 3\n", "1 + 2 = 3\nAnswer: 3") == 1
    assert score(ExactMatch(), "Answer: 3", "3") == 0
    assert score(ExactMatch(), "b", "a", "b") == 1


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("105", "100", 1),
        ("95.0", "100", 1),
        ("105.1", "100", 0),
        ("-105", "-100", 1),
        ("50%", "0.49", 1),
        ("50", "50%", 0),  # as published: a percent sign divides by 100
        ("0", "0.0", 0),  # no relative error of 0: compared as text
        ("0", "0", 1),
        ("Blue  bars", "blue bars", 1),
        ("nan", "nan", 1),
        ("some steps\nAnswer: 101", "100", 1),
        ("red", "100", 0),
    ],
)
def test_relaxed_accuracy(response: str, reference: str, right: float) -> None:
    assert score(RelaxedAccuracy(), response, reference) == right


def test_anls() -> None:
    assert score(ANLS(), "Hello World", "hello world") == 1
    assert score(ANLS(), "hallo world", "hello world") == pytest.approx(1 - 1 / 11)
    assert score(ANLS(), "abcd", "abxy") == 0  # a distance of 0.5 is not below the threshold
    assert score(ANLS(), "abcde", "abcxy") == pytest.approx(0.6)
    assert score(ANLS(), "cat", "a long reference", "cart") == pytest.approx(0.75)
    assert score(ANLS(), "First this, then that.\nAnswer: cat", "cat") == 1
    assert score(ANLS(0.9), "abcd", "abxy") == pytest.approx(0.5)


OPTIONS = {"A": "a dog", "B": "a cat", "C": "two cats", "D": "an Aardvark"}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**C**", "C"),
        ("B.", "B"),
        ("(B) dog", "B"),
        ("B. a dog", "B"),
        ("B: since it purrs", "B"),
        ("The answer is B.", "B"),
        ("The answer is (b).", "B"),
        ("Is it A? No. The answer is A... no, wait: the answer is C", "C"),
        ("A: no, that has a tail. B: yes.\nAnswer: B", "B"),
        (r"So we get \boxed{D}", "D"),
        (r"\boxed{\text{(D)}}", "D"),
        ("correct option: **C**", "C"),
        ("答案是C", "C"),
        ("two cats", "C"),
        ("Two cats.", "C"),
        ("I see a dog there", "A"),
        ("The answer is a dog", "A"),
        ("It must be D because of the snout", "D"),
        ("Answer A is right", "A"),
        ("I see nothing of the kind", None),
        ("Clearly D", "D"),
        ("A or B", None),
        ("E", None),
        ("no idea", None),
        ("A dog or a cat", None),
        ("", None),
    ],
)
def test_letters(response: str, letter: str | None) -> None:
    assert MultipleChoice().extract(response, Target(("A",), OPTIONS)) == letter


def test_multiple_choice_compares_letters_also_of_an_options_text() -> None:
    target = Target(("two cats",), OPTIONS)
    assert MultipleChoice().score("The answer is C", target) == 1
    assert MultipleChoice().score("B", target) == 0
    assert MultipleChoice().check(Target(("three",), OPTIONS)) == "the answer 'three' is not an option (A, B, C, D)"
    assert MultipleChoice().score("c", Target(("C",))) == 1  # the options may be in the image


def test_grounding() -> None:
    target = "<ref>cat</ref><box>[[100, 100, 300, 300]]</box>"
    assert score(GroundingIoU(), "<box>[[100, 100, 300, 300]]</box>", target) == 1
    assert score(GroundingIoU(), "[100, 100, 300, 300]", target) == 1
    assert score(GroundingIoU(), "<box>[[100, 100, 300, 200]]</box>", target) == 1  # exactly half
    assert score(GroundingIoU(), "<box>[[100, 100, 300, 199]]</box>", target) == 0
    assert score(GroundingIoU(), "<box>[[100, 100, 300, 2000]]</box>", target) == 0
    assert score(GroundingIoU(), "<box>[[0, 0, 9, 9]]</box>", target, "[[0, 0, 9, 9]]") == 1
    assert "has no box" in GroundingIoU().check(Target(("left",)))
    assert iou((0, 0, 10, 10), (5, 5, 15, 15)) == pytest.approx(25 / 175)
    assert iou((0, 0, 10, 10), (20, 0, 30, 10)) == 0
    assert iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0


def test_captions_need_no_nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_nltk(name, *rest):
        assert not name.startswith("nltk")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_nltk)
    responses, targets = ["The cat is on the mat", "a dog"], [Target(("a cat is on the mat",)), Target(("a dog",))]
    assert ROUGE().total(responses, targets) == pytest.approx((5 / 6 + 1) / 2, abs=1e-4)
    # clipped n-gram precisions of the corpus: 7/8, 5/6, 3/4, 2/3; no brevity penalty
    assert BLEU().total(responses, targets) == pytest.approx((7 / 8 * 5 / 6 * 3 / 4 * 2 / 3) ** 0.25, abs=0.1)
    assert not BLEU().is_mean
    assert ROUGE().is_mean


def test_checked_answers() -> None:
    assert score(FinalMatch(), "1 + 2 = 3\nAnswer: 3", "2 + 1 = 3\nAnswer: 3") == 1
    assert score(FinalMatch(), "it is 3", "3") == 0
    assert score(NumericMatch(), "so 2 and 1 make 3.0", "3") == 1
    assert score(BoxedMatch(), r"\boxed{1/2}", "0.5") == 1


def test_answers_that_mean_the_same_have_one_vote() -> None:
    found = NumericMatch().answers(["7", "it is 7.0", "none", "1/2", "0.5"], Target(("7",)))
    assert found == ["7", "7", None, "1/2", "1/2"]


def test_each_candidate_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, calls = [f"it is {number % 20}" for number in range(40)], []
    real = checking.last_number
    monkeypatch.setattr(checking, "last_number", lambda text: (calls.append(text), real(text))[1])
    answers, marks = NumericMatch().measure(texts, Target(("7", "8")))
    assert len(calls) <= 40 + 20 + 2 * 2
    assert answers == [str(number % 20) for number in range(40)]
    assert [number for number, mark in enumerate(marks) if mark] == [7, 8, 27, 28]


def test_captions_in_chinese_count_characters() -> None:
    said, other = "一只猫在桌子上。", "一只狗在桌子上。"
    for metric in (ROUGE(), BLEU()):
        assert score(metric, said, said) == pytest.approx(1.0)
        assert 0.3 < score(metric, said, other) < 0.95
        assert score(metric, "完全不同", said) < 0.3
    assert score(ROUGE(), said, other) == pytest.approx(6 / 7)
    assert score(ROUGE(), "Ein Vögelchen", "ein vögelchen!") == pytest.approx(1.0)
    assert score(ROUGE(), "猫 cat", "cat 猫") == pytest.approx(0.5)


def test_boxes_that_are_no_thousandths() -> None:
    assert score(GroundingIoU(), "[0.1, 0.1, 0.5, 0.5]", "[100, 100, 500, 500]") == 0
    assert GroundingIoU().extract("[0, 0, 2000, 100]", Target(("[0, 0, 9, 9]",))) is None
