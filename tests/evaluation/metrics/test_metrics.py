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
    CIDEr,
    ExactMatch,
    ExactStrict,
    FinalMatch,
    GroundingIoU,
    MathVista,
    MultipleChoice,
    NumericMatch,
    RelaxedAccuracy,
    Target,
    VQAAccuracy,
)
from mmcomponents.evaluation.metrics.captions import coco_words
from mmcomponents.evaluation.metrics.grounding import iou
from mmcomponents.evaluation.metrics.vqa_accuracy import vqa_words


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
    if name != "cider":  # of two equal questions all document frequencies are the same
        assert made.total([target.references[0]] * 2, [target] * 2) == pytest.approx(1.0)
    assert made.score("", target) == 0.0
    assert made.extract("", target) is None
    assert made.title


def test_exact_match_is_of_the_whole_response() -> None:
    assert score(ExactMatch(), " 1 + 2 = 3 \nAnswer: 3\n", "1 + 2 = 3\nAnswer: 3") == 1
    assert score(ExactMatch(), "Answer: 3", "3") == 0
    assert score(ExactMatch(), "b", "a", "b") == 1
    for metric, same in ((ExactMatch(), 1), (ExactStrict(), 0)):
        assert score(metric, "Paris", "paris") == same
        assert score(metric, " Paris \n", "Paris") == 1
    assert ExactMatch().extract("Paris", Target(("paris",))) == "paris"


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
    assert score(ANLS(), "abcd", "abxy") == 0.5  # a similarity of exactly one half counts, as in the challenges' scorer
    assert score(ANLS(), "abcd", "axyz") == 0
    assert score(ANLS(), "ab", "abcd") == 0.5
    assert score(ANLS(), "a", "abcd") == 0
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
    edge = "<box>[[800, 0, 1000, 400]]</box>"
    for outside in ("<box>[[800, -3, 1004, 400]]</box>", "[800, -3, 1004.5, 400]"):
        assert score(GroundingIoU(), outside, edge) == 1, "clipped to the image"
    assert GroundingIoU().extract("[800, -3, 1004, 400]", Target((edge,))) == "800, 0, 1000, 400"
    assert score(GroundingIoU(), "[1200, 0, 1500, 400]", edge) == 0
    assert "has no box" in GroundingIoU().check(Target(("[800, -3, 1004, 400]",))), "references are not clipped"
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
    assert GroundingIoU().extract("[0, 0, 2000, 100]", Target(("[0, 0, 9, 9]",))) == "0, 0, 1000, 100"


CAPTIONS = [
    ("A man rides a horse on the beach.", ["a man riding a horse on the beach", "a man rides a horse near the sea",
                                           "person on a horse at the beach"]),
    ("two dogs play in the snow", ["two dogs playing in the snow", "a pair of dogs run in snow"]),
    ("A red bus on a street!", ["a red double decker bus drives down the street", "a bus on the street"]),
    ("a cat", ["a cat sits on a table", "The cat is lying on the table."]),
]  # fmt: skip


def test_captions_have_the_figures_of_pycocoevalcap() -> None:
    responses = [response for response, _ in CAPTIONS]
    targets = [Target(tuple(references)) for _, references in CAPTIONS]
    assert CIDEr().total(responses, targets) == pytest.approx(2.7389541787915332, abs=1e-9)
    assert BLEU().total(responses, targets) == pytest.approx(0.5128695243836658, abs=1e-6)
    assert not CIDEr().is_mean
    turned = [Target(tuple(reversed(references))) for _, references in CAPTIONS]
    for metric in (BLEU(), CIDEr(), ROUGE()):
        assert metric.total(responses, turned) == metric.total(responses, targets), "references have no order"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A cat.", ["a", "cat"]),
        ("He doesn't like the dog's 3.5 bones, 1,000 of them!", ["he", "does", "n't", "like", "the", "dog", "'s", "3.5",
                                                                "bones", "1,000", "of", "them"]),
        ("a well-known bus (red) - “old”", ["a", "well-known", "bus", "red", "old"]),
        ("一只猫。", ["一", "只", "猫"]),
    ],
)  # fmt: skip
def test_words_of_captions(text: str, words: list[str]) -> None:
    assert coco_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Two dogs.", "2 dogs"),
        ("a red/blue bus", "red blue bus"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("dont know", "don't know"),
        ("dog's", "dog 's"),
        ("U.S.", "us"),
        ("couldnt've", "couldn't've"),
        ("none", "0"),
        ("T-shirt , red", "t shirt red"),
        ("a, b", "b"),
    ],
)
def test_answers_in_the_form_of_the_vqa_server(text: str, words: str) -> None:
    assert vqa_words(text) == words


def test_vqa_accuracy_is_over_annotators_without_one() -> None:
    answers = ["red"] * 4 + ["blue"] * 3 + ["two", "the 2", "green"]
    assert score(VQAAccuracy(), "Red.", *answers) == 1
    assert score(VQAAccuracy(), "blue", *answers) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert score(VQAAccuracy(), "2", *answers) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert score(VQAAccuracy(), "So.\nAnswer: green", *answers) == pytest.approx(9 / 30)
    assert score(VQAAccuracy(), "black", *answers) == 0


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("The value is 3.7", "3", 1),  # cut to an integer
        ("4", "3", 0),
        ("about 1.449", "1.45", 1),
        ("1.44", "1.45", 0),
        ("0.5", "0.50", 1),
        ("2", "2.0", 1),
        (r"\boxed{12}", "12", 1),
        ("yes", "yes", 1),
        ("Yes", "yes", 0),
        ("no number", "3", 0),
        ("10^400", "5", 0),
        ("9" * 400, "5", 0),
        ("5" + "0" * 400, "5" + "0" * 400, 1),
    ],
)
def test_mathvista_has_the_precision_of_the_reference(response: str, reference: str, right: int) -> None:
    assert score(MathVista(), response, reference) == right


@pytest.mark.parametrize(
    ("response", "options", "letter"),
    [
        ("The answer is 0.5.", {"A": "0.5", "B": "1.5", "C": "5"}, "A"),
        ("The value is 1.5", {"A": "0.5", "B": "1.5", "C": "5"}, "B"),
        ("The answer is -5", {"A": "-5", "B": "5"}, "A"),
        ("2.5", {"A": "1", "B": "2"}, None),
        ("1,234", {"A": "1", "B": "2"}, None),
        ("There are 2 dogs and 1 cat.\nAnswer: 3", {"A": "1", "B": "2", "C": "3"}, "C"),
        ("答案是狗", {"A": "猫", "B": "狗"}, "B"),
        ("不是猫，是狗", {"A": "猫", "B": "狗"}, "B"),
        ("Ｂ", {"A": "猫", "B": "狗"}, "B"),
        ("There is no dog", {"A": "cat", "B": "dog"}, None),
        ("It is not a cat but a dog", {"A": "cat", "B": "dog"}, "B"),
        ("Answer: A. cat, B. dog", {"A": "cat", "B": "dog"}, None),
    ],
)
def test_texts_of_options(response: str, options: dict[str, str], letter: str | None) -> None:
    assert MultipleChoice().extract(response, Target(("A",), options)) == letter


def test_mathvista_chooses_letters() -> None:
    target = Target(("B",), {"A": "3", "B": "4"})
    assert MathVista().score("The answer is B", target) == 1
    assert MathVista().extract("4", target) == "B"
    assert MathVista().check(Target(("C",), {"A": "3"})) != ""
