"""Invariants of selectors: a single candidate, permutations, ties, and an oracle as the critic."""

from __future__ import annotations

import random

import pytest

from mmcomponents.evaluation.selectors import (
    AGGREGATES,
    BestOfN,
    Candidates,
    First,
    Max,
    Mean,
    Min,
    Oracle,
    SelfConsistency,
)

SELECTORS = [First(), SelfConsistency(), BestOfN(), BestOfN("outcome", Min()), BestOfN(aggregate=Max()), Oracle()]


def drawn(seed: int, count: int, distinct: bool = False) -> Candidates:
    """Random candidates; `distinct`: no selector ranks two of them equally."""
    draw = random.Random(seed)
    answers: list[str | None] = [draw.choice("abc") for _ in range(count)]
    if distinct:  # one candidate has the only answer
        answers = [None] * count
        answers[draw.randrange(count)] = "a"
    return Candidates(
        texts=[f"text {number}" for number in range(count)],
        answers=answers,
        scores={
            "process": [[draw.random() for _ in range(draw.randrange(1, 5))] for _ in range(count)],
            "outcome": [[draw.random()] for _ in range(count)],
        },
        marks=draw.sample([number / count for number in range(count)], count)
        if distinct
        else [float(draw.random() < 0.3) for _ in range(count)],
    )


def permuted(candidates: Candidates, order: list[int]) -> Candidates:
    return Candidates(
        [candidates.texts[place] for place in order],
        [candidates.answers[place] for place in order],
        {name: [steps[place] for place in order] for name, steps in candidates.scores.items()},
        [candidates.marks[place] for place in order],
    )


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: type(s).__name__)
def test_of_one_candidate_it_is_chosen(selector) -> None:
    assert all(selector.choose(drawn(seed, 1)) == 0 for seed in range(20))
    assert all(selector.choices(drawn(seed, 8))[0] == 0 for seed in range(20))


@pytest.mark.parametrize("selector", [s for s in SELECTORS if not isinstance(s, First)], ids=lambda s: type(s).__name__)
def test_permuted_candidates_permute_the_choice(selector) -> None:
    for seed in range(30):
        candidates, order = drawn(seed, 8, distinct=True), list(range(8))
        random.Random(seed + 100).shuffle(order)
        assert order[selector.choose(permuted(candidates, order))] == selector.choose(candidates)


def test_choices_are_those_of_the_first_candidates() -> None:
    candidates = drawn(3, 8)
    for selector in SELECTORS:
        alone = [selector.choose(candidates.first(count)) for count in range(1, 9)]
        assert selector.choices(candidates) == alone
        assert all(choice < count for count, choice in enumerate(alone, 1))


def test_with_an_oracle_as_the_critic_best_of_n_is_pass_at_n() -> None:
    for seed in range(50):
        known = drawn(seed, 8)
        scored = Candidates(known.texts, marks=known.marks, scores={"process": [[mark] for mark in known.marks]})
        found = [known.marks[place] for place in BestOfN().choices(scored)]
        pass_at = [max(known.marks[:count]) for count in range(1, 9)]
        assert found == pass_at == [known.marks[place] for place in Oracle().choices(scored)]


def test_ties_keep_the_earlier_candidate() -> None:
    tied = Candidates(["a", "b", "c"], ["x", "y", "z"], {"process": [[0.5], [0.5, 0.5], [0.5]]}, [0.0, 0.0, 0.0])
    assert [s.choose(tied) for s in (SelfConsistency(), BestOfN(), Oracle())] == [0, 0, 0]


def test_a_vote() -> None:
    votes = Candidates(list("abcdef"), [None, "7", "8", "8", "7", None])
    assert SelfConsistency().choose(votes) == 1  # 7 and 8 have two votes each; 7 occurs first
    assert SelfConsistency().choices(votes) == [0, 1, 1, 2, 1, 1]
    assert SelfConsistency().choose(Candidates(["a", "b"], [None, None])) == 0


def test_aggregates() -> None:
    steps = {"process": [[0.9, 0.1, 0.8], [0.5, 0.6, 0.5], [0.7, 0.4, 0.85]]}
    scored = Candidates(list("abc"), scores=steps)
    chosen = {name: BestOfN(aggregate=kind()).choose(scored) for name, kind in AGGREGATES.items()}
    assert chosen == {"mean": 2, "min": 1, "max": 0}
    assert BestOfN().choose(scored) == chosen["mean"]
    assert [kind()([0.2, 0.6]) for kind in (Mean, Min, Max)] == pytest.approx([0.4, 0.2, 0.6])


def test_a_solution_without_scores_is_chosen_last() -> None:
    nothing = float("nan")
    assert BestOfN().choose(Candidates(list("abc"), scores={"process": [[], [nothing], [0.0]]})) == 2
    assert BestOfN().choose(Candidates(list("ab"), scores={"process": [[], []]})) == 0


def test_what_is_missing_is_told() -> None:
    bare = Candidates(["a", "b"])
    with pytest.raises(ValueError, match="scores of the critic 'outcome'; the critics with scores are: none"):
        BestOfN("outcome").choose(bare)
    with pytest.raises(ValueError, match="answers"):
        SelfConsistency().choose(bare)
    with pytest.raises(ValueError, match="needs the candidates' marks"):
        Oracle().choose(bare)
    with pytest.raises(ValueError, match="2 candidates, 1 process"):
        Candidates(["a", "b"], scores={"process": [[0.1]]})
    with pytest.raises(ValueError, match="one candidate"):
        Candidates([])
