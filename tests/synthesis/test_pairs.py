from __future__ import annotations

import pytest

from mmcomponents.evaluation.checkers import FinalAnswer
from mmcomponents.synthesis.pairs import first_half, pair_by_correctness

CHECK = FinalAnswer()


def texts(*answers: object) -> list[str]:
    """Returns answers with distinct texts."""
    return [f"{number} {answer}\nAnswer: {answer}" for number, answer in enumerate(answers)]


def test_right_answers_are_paired_with_wrong_ones() -> None:
    given = [*texts(7, 7, 8, 7.0, 9), "no idea"]
    found = pair_by_correctness([*given, given[0], given[2]], "7", CHECK)
    right, wrong = {given[0], given[1], given[3]}, {given[2], given[4], given[5]}
    assert set(found.pairs) == {(r, w) for r in right for w in wrong}
    assert len(found.pairs) == 9  # distinct
    assert (found.correct, found.wrong, found.unparseable, found.contained) == (4, 3, 1, 0)
    strict = pair_by_correctness(given, "7", CHECK, format_negatives=False)
    assert {w for _, w in strict.pairs} == {given[2], given[4]}
    assert strict.unparseable == 1


def test_a_right_answer_that_is_part_of_the_wrong_one_makes_no_pair() -> None:
    given = [*texts(7, 17, 8), "7 and no form"]
    found = pair_by_correctness(given, "7", CHECK)
    assert {w for _, w in found.pairs} == {given[2], given[3]}  # the last one has no answer to compare
    assert found.contained == 1
    alone = pair_by_correctness(given[:2], "7", CHECK)
    assert (alone.pairs, alone.why_none) == ([], "the right answer is part of it")


def test_pairs_are_drawn_by_seed_and_key() -> None:
    given = texts(*[7] * 8, *[8] * 8)

    def drawn(**settings) -> list[tuple[str, str]]:
        return pair_by_correctness(given, "7", CHECK, **settings).pairs

    first = drawn(seed=1, key="a")
    assert len(first) == len(set(first)) == 15
    assert drawn(seed=1, key="a") == first
    assert drawn(seed=1, key="a", max_pairs=3) == first[:3]
    assert drawn(seed=2, key="a") != first
    assert drawn(seed=1, key="b") != first


@pytest.mark.parametrize(("given", "why"), [(["8"], "no right answer"), (["7"], "no wrong answer"), ([], "no right")])
def test_why_there_is_no_pair(given, why) -> None:
    assert pair_by_correctness(texts(*given), "7", CHECK).why_none.startswith(why)


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("one two\nthree  four", "one two"),
        ("a b c d e", "a b"),
        ("一 二", "一"),
        ("一二三四", None),
        (" a b c ", " a"),
        ("word", None),
        ("", None),
        ("a b", "a"),
    ],
)
def test_half_of_the_words(text, half) -> None:
    assert first_half(text) == half


def test_an_answer_that_was_cut_is_never_right() -> None:
    given = texts(7, 8, 7)
    found = pair_by_correctness(given, "7", CHECK, cut=[0])
    assert found.pairs
    assert all(chosen == given[2] for chosen, _ in found.pairs)
    assert {rejected for _, rejected in found.pairs} == {given[0], given[1]}
    assert (found.correct, found.wrong, found.unparseable, found.cut) == (1, 1, 1, 1)
    strict = pair_by_correctness(given, "7", CHECK, cut=[0], format_negatives=False)
    assert strict.pairs == [(given[2], given[1])]
    assert pair_by_correctness(given[:2], "7", CHECK, cut=[0]).why_none == "no right answer"


def test_a_text_that_came_cut_and_whole_is_not_paired_with_itself() -> None:
    given = texts(7, 8)
    found = pair_by_correctness([given[0], *given], "7", CHECK, cut=[0])
    assert found.pairs == [(given[0], given[1])]


def test_several_answers_may_count_as_right() -> None:
    given = texts("seven", 7, 8)
    found = pair_by_correctness(given, ["7", "seven"], CHECK)
    assert set(found.pairs) == {(given[0], given[2]), (given[1], given[2])}
