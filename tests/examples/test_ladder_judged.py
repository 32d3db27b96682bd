from __future__ import annotations

import re

import numpy as np

from ladder_judged import (
    MISCOUNTED,
    MISQUOTED,
    MISREAD,
    Judged,
    judged_solution,
    judged_statements,
    judged_sums,
    step,
)


def test_half_of_the_statements_are_false_and_the_truth_stands_behind_each_verdict() -> None:
    generator, digits = np.random.default_rng(0), [4, 7, 7]
    head, *lines = judged_statements(digits, [2, 0, 1, 1] * 100, generator).split("\n")
    assert head == "<image>"
    false, places = 0, list[int]()
    for stated, verdict in zip(lines[::2], lines[1::2], strict=True):
        found = re.fullmatch(r"Digit (\d) is (\d)\.", stated)
        assert found is not None
        place, digit = map(int, found.groups())
        places.append(place)
        assert verdict == f"{'+' if digit == digits[place - 1] else '-'} {digits[place - 1]}"
        false += digit != digits[place - 1]
    assert places == [3, 1, 2, 2] * 100
    assert 150 < false < 250


def test_a_verdict_is_about_its_own_step() -> None:
    """A step is right if its digit is that of the scene and its total follows from the step before, right or wrong."""
    generator, digits, similar = np.random.default_rng(1), [9, 0, 4, 8], [4, 6, 9, 3]
    wrong = {"digit": 0, "similar": 0, "total": 0, "answer": 0}
    for _ in range(500):
        judged = judged_solution(digits, similar, generator)
        messages = judged.conversation(with_truth=False)
        assert [m["role"] for m in messages] == ["user", "assistant"] * 5
        shown = [m["content"].rpartition("### Solution Process:\n")[2] for m in messages[::2]]
        before = 0
        for place, (text, verdict) in enumerate(zip(shown[:-1], messages[1::2], strict=False), start=1):
            digit = int(text[11])
            total = int(text.split()[-1].rstrip("."))
            assert text == step(place, digit, before, total)
            good = digit == digits[place - 1] and total == before + digit
            assert verdict["content"] == ("+" if good else "-")
            wrong["digit"] += digit != digits[place - 1]
            wrong["similar"] += digit == similar[place - 1]
            wrong["total"] += total != before + digit
            before = total
        assert messages[-1]["content"] == ("+" if shown[-1] == f"Answer: {before}" else "-")
        wrong["answer"] += messages[-1]["content"] == "-"
        assert judged.truths == (*digits, before), "what is there, and the last total"
    assert abs(wrong["digit"] / 2000 - MISREAD) < 0.05
    assert abs(wrong["similar"] / wrong["digit"] - 5 / 9) < 0.06, "half of them, and one in nine of the others"
    assert abs(wrong["total"] / 1500 - MISCOUNTED) < 0.012
    assert abs(wrong["answer"] / 500 - MISQUOTED) < 0.08


def test_what_is_right_stands_behind_each_verdict_of_a_transcript_and_of_corrections() -> None:
    judged = Judged("<image>\nAdd.", ("Digit 1 is 4.", "Answer: 5"), ("+", "-"), (4, 4))
    assert judged.transcript() == "<image>\nAdd.\nDigit 1 is 4.\n+ 4\nAnswer: 5\n- 4"
    told, untold = judged.conversation(with_truth=True), judged.conversation(with_truth=False)
    assert told[::2] == untold[::2]
    assert [message["content"] for message in told[1::2]] == ["+ 4", "- 4"]
    assert [message["content"] for message in untold[1::2]] == ["+", "-"]


def test_half_of_the_sums_are_false_and_the_right_one_stands_behind_each_verdict() -> None:
    messages = judged_sums(8, 600, np.random.default_rng(2))
    false, sums = 0, list[str]()
    for asked, said in zip(messages[::2], messages[1::2], strict=True):
        found = re.fullmatch(r"Digit (\d) is (\d)\. (\d+) \+ (\d) = (\d+)", asked["content"])
        assert found is not None
        place, digit, before, again, total = map(int, found.groups())
        assert 2 <= place <= 8
        assert before <= 9 * (place - 1)
        assert again == digit
        sums.append(f"{before} {place} {digit}")
        good = total == before + digit
        assert said["content"] == f"{'+' if good else '-'} {step(place, digit, before, before + digit)}"
        false += not good
    assert 240 < false < 360
    assert 200 < len(set(sums)) < 400, "half of them come again with another total"
