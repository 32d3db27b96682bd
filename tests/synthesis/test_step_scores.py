from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from drawn import contents, records, scripted, write_questions
from mmcomponents.data.chat.critic_prompt import SYSTEM, critique
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.evaluation.checkers import FinalAnswer
from mmcomponents.synthesis import drawing
from mmcomponents.synthesis.checker import Checker
from mmcomponents.synthesis.drawing import DrawOptions
from mmcomponents.synthesis.rollout import Sampling, rollouts
from mmcomponents.synthesis.step_scores import make_step_scores

SAMPLING = Sampling(samples=2, max_new_tokens=6, temperature=1.0, seed=3)


class Short(Checker):
    """Accepts short answers: an untrained model gives some."""

    def extract(self, response: str) -> str | None:
        return response or None

    def same(self, found: str, answer: str) -> bool:
        return len(found) < 20


def test_scores_are_shares_of_right_completions(tmp_path, monkeypatch, renderer, writer) -> None:
    """All completions from "good" are correct, one of four from "good, odd", and none from "bad"."""
    solutions = ["good\n\nodd\n\nAnswer: 7", "good\n\nbad\n\nAnswer: 8"]
    right = {"good\n\n": 4, "good\n\nodd\n\n": 1, "good\n\nbad\n\n": 0}

    def script(question, number: int) -> str:
        if not question.prefix:
            return solutions[number % 2]
        return f"Answer: {7 if number < right[question.prefix] else 8}"

    asked = scripted(monkeypatch, script)
    out = tmp_path / "out"
    sampling = replace(SAMPLING, samples=3)
    report = make_step_scores(
        writer(), renderer, write_questions(tmp_path, 1), out, sampling, FinalAnswer(), completions=4
    )
    # a shared beginning of two solutions is completed once, and a repeated solution counts once
    assert sorted(question.prefix for question in asked) == sorted(["", *right])
    assert (report.solutions, report.equal, report.used, report.correct) == (3, 1, 2, 1)
    assert (report.steps, report.good) == (6, 4)
    lines = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [[step["num_mc_correct"] for step in line["steps_with_score"]] for line in lines] == [[4, 1, 1], [4, 0, 0]]
    assert [[step["num_mc_total"] for step in line["steps_with_score"]] for line in lines] == [[4, 4, 1]] * 2
    assert [step["score"] for step in lines[0]["steps_with_score"]] == [1.0, 0.25, 1.0]
    assert {name: lines[0][name] for name in ("image", "question", "answer", "response")} == {
        "image": "0.png",
        "question": "<image>\nWhat is 0?",
        "answer": "7",
        "response": solutions[0],
    }
    process, outcome = records(out, "process"), records(out, "outcome")
    steps = [["good", "odd", "Answer: 7"], ["good", "bad", "Answer: 8"]]
    verdicts = ["+++", "+--"]
    question = "<image>\nWhat is 0?"
    assert [r["messages"] for r in process] == [critique(question, s, v) for s, v in zip(steps, verdicts, strict=True)]
    assert [r["messages"] for r in outcome] == [
        critique(question, [s], v) for s, v in zip(solutions, "+-", strict=True)
    ]
    assert process[0]["messages"][0]["content"] == SYSTEM
    assert [r["files"] for r in process + outcome] == [["0.png"]] * 4
    for name in ("process", "outcome"):
        index = Index.open([str(out / f"{name}-000000.tar")], renderer.tokenizer)
        assert (len(index), index.problems, index.sources) == (2, {}, [name])


def test_the_threshold(tmp_path, monkeypatch, renderer, writer) -> None:
    def script(question, number: int) -> str:
        return f"Answer: {7 if number < 2 else 8}" if question.prefix else "a step\n\nAnswer: 7"

    scripted(monkeypatch, script)
    questions = write_questions(tmp_path, 1)
    for threshold, verdict in ((0.0, "+"), (0.49, "+"), (0.5, "-")):
        how = {"completions": 4, "threshold": threshold}
        make_step_scores(writer(), renderer, questions, tmp_path / "out", SAMPLING, FinalAnswer(), **how)
        (record,) = records(tmp_path / "out", "process")
        assert [m["content"] for m in record["messages"] if m["role"] == "assistant"] == [verdict, "+"]


def test_steps_after_the_first_bad_one_can_be_left_out(tmp_path, monkeypatch, renderer, writer) -> None:
    said = ["good\n\nbad\n\nworse\n\nAnswer: 8", "good\n\nfine\n\nAnswer: 7"]

    def script(question, number: int) -> str:
        if not question.prefix:
            return said[number]
        return f"Answer: {8 if 'bad' in question.prefix else 7}"

    scripted(monkeypatch, script)
    how = {"completions": 2, "until_error": True, "system": None}
    questions, out = write_questions(tmp_path, 1), tmp_path / "out"
    report = make_step_scores(writer(), renderer, questions, out, SAMPLING, FinalAnswer(), **how)
    shown = "<image>\nWhat is 0?"
    assert [r["messages"] for r in records(out, "process")] == [
        critique(shown, ["good", "bad"], "+-", system=None),
        critique(shown, ["good", "fine", "Answer: 7"], "+++", system=None),
    ]
    assert [r["messages"][-1]["content"] for r in records(out, "outcome")] == ["-", "+"]
    assert (report.steps, report.good, report.used) == (5, 4, 2)
    lines = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [len(line["steps_with_score"]) for line in lines] == [4, 3], "the raw scores are complete"


def test_questions_that_are_always_or_never_answered_can_be_left_out(tmp_path, monkeypatch, renderer, writer) -> None:
    answers = {"What is 0?": (7, 8), "What is 1?": (9, 6), "What is 2?": (7, 7)}

    def script(question, number: int) -> str:
        asked = question.messages[-1]["content"].removeprefix("<image>\n")
        return f"step {number}\n\nAnswer: {answers[asked][0 if question.prefix else number]}"

    asked = scripted(monkeypatch, script)
    questions, out = write_questions(tmp_path, 3), tmp_path / "out"
    report = make_step_scores(writer(), renderer, questions, out, SAMPLING, FinalAnswer(), completions=1)
    assert (report.one_sided, report.used, report.correct) == (0, 6, 3)
    how = {"completions": 1, "mixed_only": True}
    asked.clear()
    out = tmp_path / "mixed"
    report = make_step_scores(writer(), renderer, questions, out, SAMPLING, FinalAnswer(), **how)
    assert (report.one_sided, report.used, report.correct) == (4, 2, 1)
    assert [question.prefix for question in asked if question.prefix] == ["step 0\n\n", "step 1\n\n"]
    assert {r["question_key"] for r in records(out, "process")} == {questions.items[0].key}


def test_many_steps_are_joined_and_empty_solutions_left_out(tmp_path, monkeypatch, renderer, writer) -> None:
    said = ["\n\n".join("abcdefg"), " \n"]
    scripted(monkeypatch, lambda question, number: "Answer: 8" if question.prefix else said[number])
    questions = write_questions(tmp_path, 1, images=False)
    how = {"completions": 1, "max_steps": 3}
    report = make_step_scores(writer(), renderer, questions, tmp_path / "out", SAMPLING, FinalAnswer(), **how)
    assert (report.empty, report.used, report.steps, report.good) == (1, 1, 3, 0)
    (record,) = records(tmp_path / "out", "process")
    assert [m["content"] for m in record["messages"] if m["role"] == "user"][1:] == ["d\n\ne\n\nf", "g"]
    assert record["files"] == []


def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, monkeypatch, renderer, tokenizer, writer) -> None:
    """Uses a real model; a blank line after every second token splits its answers into steps."""
    model, questions = writer(), write_questions(tmp_path, 3)
    plain = type(tokenizer).decode
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids, **rest: "\n\n".join(
        plain(self, ids[place : place + 2], **rest) for place in range(0, len(ids), 2)
    ))  # fmt: skip

    def run(name: str, **how):
        settings = {"completions": 3, "options": DrawOptions(max_segments=8), **how}
        return make_step_scores(model, renderer, questions, tmp_path / name, SAMPLING, Short(), **settings)

    whole = run("whole")
    assert 0 < whole.good < whole.steps
    assert whole.steps > 12
    wanted = contents(tmp_path / "whole")
    for phase in (1, 2):  # during the solutions, and during the completions
        calls = itertools.count(1)

        def dies(*args, calls=calls, phase=phase, **rest):
            last = next(calls) == phase
            yield from itertools.islice(rollouts(*args, **rest), 2 if last else None)
            if last:
                raise KeyboardInterrupt

        monkeypatch.setattr(drawing, "rollouts", dies)
        name = f"stopped{phase}"
        with pytest.raises(KeyboardInterrupt):
            run(name)
        monkeypatch.setattr(drawing, "rollouts", rollouts)
        journal = tmp_path / name / "journal.jsonl"
        assert journal.read_text().count("\n") == (3 if phase == 1 else 6)
        journal.write_bytes(journal.read_bytes()[:-7])
        run(name)
        assert contents(tmp_path / name) == wanted
    with pytest.raises(DataError, match=r"started with other settings \(completions was 3 and is 4\)"):
        run("whole", completions=4)


def test_wrong_numbers_are_refused(tmp_path, renderer, writer) -> None:
    for how in ({"completions": 0}, {"threshold": 1.0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=r"need completions|max_steps must be"):
            make_step_scores(writer(), renderer, write_questions(tmp_path, 1), tmp_path, SAMPLING, Short(), **how)


def test_what_was_cut_is_wrong(tmp_path, monkeypatch, renderer, writer) -> None:
    """A complete and a truncated solution with the correct answer; one of two completions is truncated."""
    said = ["a step\n\nAnswer: 7", "other\n\nAnswer: 7~"]

    def script(question, number: int) -> str:
        return ("Answer: 7~" if number else "Answer: 7") if question.prefix else said[number]

    scripted(monkeypatch, script)
    out, questions = tmp_path / "out", write_questions(tmp_path, 1)
    report = make_step_scores(writer(), renderer, questions, out, SAMPLING, FinalAnswer(), completions=2)
    assert (report.solutions, report.used, report.cut, report.correct) == (2, 2, 1, 1)
    assert (report.completions, report.completions_cut) == (6, 3)
    lines = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [[step["score"] for step in line["steps_with_score"]] for line in lines] == [[0.5, 1.0], [0.5, 0.0]]
    assert [r["messages"][-1]["content"] for r in records(out, "outcome")] == ["+", "-"]
